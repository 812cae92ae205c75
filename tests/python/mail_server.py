"""A mail server that nobody here wrote: aiosmtpd, as a company would run it.

    mail_server.py FOLDER STARTTLS_PORT TLS_PORT USER PASSWORD

Takes mails from whoever has logged in over TLS: by STARTTLS on one port, from the first byte on the other. The certificate
is of an authority of its own, FOLDER/ca.pem. Each mail becomes a file FOLDER/mails/N.json with its envelope and what
Python's own parser makes of the message. Prints a line when it listens, and ends with its input.
"""

import email
import email.policy
import json
import ssl
import sys
from pathlib import Path

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

HOST = "127.0.0.1"


class Keeper:
    """Keeps mails as files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        cipher = server.transport.get_extra_info("cipher")
        mail = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "tls": cipher[1] if cipher else None,
            "login": session.auth_data,
            "defects": [str(defect) for part in message.walk() for defect in part.defects],
            "head": {name.lower(): str(value) for name, value in message.items()},
            "text": message.get_body(("plain",)).get_content(),
        }
        self.count += 1
        half = self.folder / "half"
        half.write_text(json.dumps(mail))
        # Whole or not there.
        half.rename(self.folder / f"{self.count}.json")
        return "250 kept"


def main() -> None:
    folder, starttls_port, tls_port, user, password = sys.argv[1:]
    folder = Path(folder)
    (folder / "mails").mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)

    def authenticate(server, session, envelope, mechanism, login):
        known = (login.login, login.password) == (user.encode(), password.encode())
        return AuthResult(success=known, handled=False, auth_data=login.login.decode())

    keeper = Keeper(folder / "mails")
    shared = {"hostname": HOST, "authenticator": authenticate, "auth_required": True}
    starttls = Controller(keeper, port=int(starttls_port), tls_context=context, require_starttls=True, **shared)
    # All of it is encrypted: there is no STARTTLS to wait for.
    tls = Controller(keeper, port=int(tls_port), ssl_context=context, auth_require_tls=False, **shared)
    for controller in (starttls, tls):
        controller.start()
    print("listening", flush=True)
    sys.stdin.read()
    for controller in (starttls, tls):
        controller.stop()


if __name__ == "__main__":
    main()

//! A small mail server in this process: it speaks SMTP over TCP, wants a login, and keeps what it is given.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const USER: &str = "mailer@example.org";
const PASSWORD: &str = "mail/secret";

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct ReceivedMail {
    /// The sender of the envelope.
    pub from: String,
    /// The recipient of the envelope.
    pub to: String,
    /// The message, with its head.
    pub message: String,
}

#[derive(Default)]
struct Mailbox {
    mails: Mutex<Vec<ReceivedMail>>,
    refusals: AtomicUsize,
    conversations: AtomicUsize,
}

/// A running server; ends with this value.
pub struct SmtpServer {
    mailbox: Arc<Mailbox>,
    port: u16,
    _tasks: JoinSet<()>,
}

impl SmtpServer {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        let shared = mailbox.clone();
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                shared.conversations.fetch_add(1, Ordering::Relaxed);
                let mailbox = shared.clone();
                conversations.spawn(async move {
                    // The client may go when it likes.
                    let _ = converse(socket, &mailbox).await;
                });
            }
        });
        Self {
            mailbox,
            port,
            _tasks: tasks,
        }
    }

    /// An address for `SMTP_URL` with the right login.
    pub fn url(&self) -> String {
        self.url_with("mail%2Fsecret")
    }

    /// The same with another password.
    pub fn url_with(&self, password: &str) -> String {
        format!(
            "smtp://mailer%40example.org:{password}@127.0.0.1:{}",
            self.port
        )
    }

    /// Everything that arrived.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.mailbox.mails.lock().unwrap().clone()
    }

    /// How many connections there were.
    pub fn conversations(&self) -> usize {
        self.mailbox.conversations.load(Ordering::Relaxed)
    }

    /// Answers the next mails with "not now".
    pub fn refuse_next(&self, mails: usize) {
        self.mailbox.refusals.store(mails, Ordering::Relaxed);
    }
}

/// What is known in one conversation.
#[derive(Default)]
struct Conversation {
    logged_in: bool,
    from: Option<String>,
    to: Option<String>,
}

async fn converse(socket: TcpStream, mailbox: &Mailbox) -> std::io::Result<()> {
    let mut stream = BufStream::new(socket);
    let mut state = Conversation::default();
    say(&mut stream, "220 test ESMTP").await?;
    while let Some(line) = hear(&mut stream).await? {
        let verb = line.split(' ').next().unwrap_or_default();
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => say(&mut stream, "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN").await?,
            "NOOP" => say(&mut stream, "250 fine").await?,
            "DATA" if state.to.is_some() => {
                say(&mut stream, "354 go on").await?;
                let message = hear_message(&mut stream).await?;
                let mail = ReceivedMail {
                    from: state.from.take().unwrap_or_default(),
                    to: state.to.take().unwrap_or_default(),
                    message,
                };
                mailbox.mails.lock().unwrap().push(mail);
                say(&mut stream, "250 taken").await?;
            }
            "QUIT" => return say(&mut stream, "221 bye").await,
            _ => say(&mut stream, state.answer(&line, mailbox)).await?,
        }
    }
    Ok(())
}

impl Conversation {
    fn answer(&mut self, line: &str, mailbox: &Mailbox) -> &'static str {
        if let Some(login) = line.strip_prefix("AUTH PLAIN ") {
            self.logged_in = STANDARD.encode(format!("\0{USER}\0{PASSWORD}")) == login;
            return if self.logged_in {
                "235 welcome"
            } else {
                "535 5.7.8 wrong login"
            };
        }
        if line == "RSET" {
            (self.from, self.to) = (None, None);
            return "250 forgotten";
        }
        if !self.logged_in {
            return "530 5.7.0 log in first";
        }
        let address = |line: &str| {
            let (_, rest) = line.split_once('<')?;
            Some(rest.split_once('>')?.0.to_owned())
        };
        if line.starts_with("MAIL FROM:") {
            let left = mailbox.refusals.load(Ordering::Relaxed);
            if left > 0 {
                mailbox.refusals.store(left - 1, Ordering::Relaxed);
                return "451 4.3.0 not now";
            }
            self.from = address(line);
            return "250 fine";
        }
        if line.starts_with("RCPT TO:<unknown") {
            // As real servers do, with the address in it.
            return "550 5.1.1 <unknown@example.com>: nobody here";
        }
        if line.starts_with("RCPT TO:") && self.from.is_some() {
            self.to = address(line);
            return "250 fine";
        }
        "503 5.5.1 not now, or never"
    }
}

async fn say(stream: &mut BufStream<TcpStream>, line: &str) -> std::io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    stream.flush().await
}

async fn hear(stream: &mut BufStream<TcpStream>) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Up to the dot on a line of its own; dots at the start of other lines were doubled on the way.
async fn hear_message(stream: &mut BufStream<TcpStream>) -> std::io::Result<String> {
    let mut message = String::new();
    while let Some(line) = hear(stream).await? {
        if line == "." {
            break;
        }
        message.push_str(line.strip_prefix('.').unwrap_or(&line));
        message.push_str("\r\n");
    }
    Ok(message)
}

//! Who may come in: by a bearer token, or, where there is none, by the word of the gateway.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use serde::Deserialize;
use socialhub_domain::UserId;
use subtle::ConstantTimeEq;

use crate::ports::{ChatUser, TokenCheck};

/// Who asks, as the gateway says; JSON `{"id", "username"}`.
const USER_PAYLOAD: &str = "x-user-payload";
/// What the gateway proves itself with.
const GATEWAY_SECRET: &str = "x-gateway-secret";

/// What somebody came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A token, which may expire or be revoked.
    Token(String),
    /// The gateway's word, at the time. There is nothing to check again.
    Gateway,
}

/// Checks who comes in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission {
    tokens: Arc<dyn TokenCheck>,
    gateway_secret: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Payload {
    id: UserId,
    username: Arc<str>,
}

impl Admission {
    /// An empty secret is none.
    pub(crate) fn new(tokens: Arc<dyn TokenCheck>, gateway_secret: Option<Arc<str>>) -> Self {
        Self {
            tokens,
            gateway_secret: gateway_secret.filter(|secret| !secret.is_empty()),
        }
    }

    /// Who asks, and by what they are believed: the token of the client's `auth`, that of the `Authorization` header,
    /// or the gateway's word when neither is there. A bad token is not made good by the gateway's word.
    pub(crate) fn admit(
        &self,
        auth: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<(ChatUser, Proof)> {
        let header = text(headers, header::AUTHORIZATION.as_str());
        let tokens: Vec<&str> = [auth, header]
            .into_iter()
            .flatten()
            .map(bearer)
            .filter(|token| !token.is_empty())
            .collect();
        if tokens.is_empty() {
            return Some((self.by_gateway(headers)?, Proof::Gateway));
        }
        tokens.into_iter().find_map(|token| {
            let user = self.tokens.check(token)?;
            Some((user, Proof::Token(token.to_owned())))
        })
    }

    /// Whether what somebody came in by still counts.
    pub(crate) fn still_holds(&self, user: UserId, proof: &Proof) -> bool {
        if self.tokens.is_erased(user) {
            return false;
        }
        match proof {
            Proof::Token(token) => self.tokens.check(token).is_some(),
            Proof::Gateway => true,
        }
    }

    fn by_gateway(&self, headers: &HeaderMap) -> Option<ChatUser> {
        let expected = self.gateway_secret.as_deref()?.as_bytes();
        let said = headers.get(GATEWAY_SECRET)?.as_bytes();
        if !bool::from(expected.ct_eq(said)) {
            return None;
        }
        let Payload { id, username } = serde_json::from_str(text(headers, USER_PAYLOAD)?).ok()?;
        Some(ChatUser { id, username })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // As UTF-8: a username may have letters beyond ASCII.
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

/// The token of an `Authorization` header or of a client's `auth` payload: the word `Bearer` before it may be missing.
fn bearer(value: &str) -> &str {
    let value = value.trim();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token.trim(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use uuid::Uuid;

    use super::*;

    struct OnlyGood;

    impl TokenCheck for OnlyGood {
        fn check(&self, token: &str) -> Option<ChatUser> {
            (token == "good").then(|| user(1, "ann"))
        }
    }

    fn user(id: u128, name: &str) -> ChatUser {
        ChatUser {
            id: UserId(Uuid::from_u128(id)),
            username: name.into(),
        }
    }

    fn admission(secret: Option<&str>) -> Admission {
        Admission::new(Arc::new(OnlyGood), secret.map(Into::into))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = axum::http::HeaderName::from_static(name);
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    const BOB: (&str, &str) = (
        "x-user-payload",
        r#"{"id":"00000000-0000-0000-0000-000000000002","username":"bob"}"#,
    );

    #[test]
    fn bearer_may_be_missing() {
        assert_eq!(bearer("Bearer abc"), "abc");
        assert_eq!(bearer("bearer  abc "), "abc");
        assert_eq!(bearer("abc"), "abc");
        assert_eq!(bearer("Bearer é"), "é");
        assert_eq!(bearer("Bearer "), "Bearer");
    }

    #[test]
    fn a_token_admits_wherever_it_is() {
        let admission = admission(None);
        let by_token = Some((user(1, "ann"), Proof::Token("good".to_owned())));
        let none = headers(&[]);
        assert_eq!(admission.admit(Some("Bearer good"), &none), by_token);
        let header = headers(&[("authorization", "Bearer good")]);
        assert_eq!(admission.admit(None, &header), by_token);
        assert_eq!(admission.admit(Some("bad"), &header), by_token);
        assert_eq!(admission.admit(None, &none), None);
        assert_eq!(admission.admit(Some("bad"), &none), None);
    }

    #[test]
    fn the_gateway_is_believed_only_by_its_secret_and_only_where_there_is_no_token() {
        let admission_ = admission(Some("secret"));
        let by_gateway = Some((user(2, "bob"), Proof::Gateway));
        let good = headers(&[BOB, ("x-gateway-secret", "secret")]);
        assert_eq!(admission_.admit(None, &good), by_gateway);
        assert_eq!(admission_.admit(Some(""), &good), by_gateway);
        assert_eq!(admission_.admit(Some("bad"), &good), None);
        let revoked = headers(&[
            BOB,
            ("x-gateway-secret", "secret"),
            ("authorization", "Bearer bad"),
        ]);
        assert_eq!(admission_.admit(None, &revoked), None);
        for wrong in ["", "secre", "secret!", "Secret"] {
            let wrong = headers(&[BOB, ("x-gateway-secret", wrong)]);
            assert_eq!(admission_.admit(None, &wrong), None);
        }
        assert_eq!(admission_.admit(None, &headers(&[BOB])), None);
        assert_eq!(admission(None).admit(None, &good), None);
        let empty = headers(&[BOB, ("x-gateway-secret", "")]);
        assert_eq!(admission(Some("")).admit(None, &empty), None);
        let nonsense = headers(&[("x-user-payload", "{}"), ("x-gateway-secret", "secret")]);
        assert_eq!(admission_.admit(None, &nonsense), None);
    }
}

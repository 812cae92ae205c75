//! JSON Web Tokens: HS256, 24 hours, tied to a person's token epoch.

use std::collections::{HashMap, HashSet};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use socialhub_commands::{
    Actor,
    ports::{BadToken, Tokens},
};
use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::ERASED_EPOCH;

/// Seconds a token is good for.
const LIFETIME: i64 = 24 * 60 * 60;

/// The epoch of somebody who never reset their password.
const INITIAL_EPOCH: u64 = 1;

/// The longest token that is looked at; ours have about 300 bytes.
const MAX_LENGTH: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    id: UserId,
    username: String,
    iat: i64,
    exp: i64,
    ver: u64,
}

/// Makes and checks tokens with one secret.
pub struct JwtTokens {
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// Only the people whose epoch was raised: few, and read on every request.
    raised: RwLock<HashMap<UserId, u64>>,
}

impl JwtTokens {
    /// Tokens signed with `secret`; `raised` are the epochs that are not the initial one.
    pub fn new(secret: &[u8], raised: impl IntoIterator<Item = (UserId, u64)>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // Time comes in as an argument, so expiry is checked here and not by the library.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        Self {
            header: Header::new(Algorithm::HS256),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            raised: RwLock::new(raised.into_iter().collect()),
        }
    }

    fn epoch(&self, user: UserId) -> u64 {
        self.raised
            .read()
            .get(&user)
            .copied()
            .unwrap_or(INITIAL_EPOCH)
    }
}

impl Tokens for JwtTokens {
    fn issue(&self, actor: &Actor, epoch: u64, now: Timestamp) -> String {
        let iat = now.0.div_euclid(1000);
        let claims = Claims {
            id: actor.id,
            username: actor.username.clone(),
            iat,
            exp: iat + LIFETIME,
            ver: epoch,
        };
        encode(&self.header, &claims, &self.encoding)
            .expect("an HMAC key signs strings and numbers")
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Actor, BadToken> {
        if token.len() > MAX_LENGTH {
            return Err(BadToken);
        }
        let claims = decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|_| BadToken)?
            .claims;
        let expired = claims.exp <= now.0.div_euclid(1000);
        if expired || claims.ver < self.epoch(claims.id) {
            return Err(BadToken);
        }
        Ok(Actor {
            id: claims.id,
            username: claims.username,
        })
    }

    fn is_erased(&self, user: UserId) -> bool {
        self.epoch(user) == ERASED_EPOCH
    }

    fn raise_epoch(&self, user: UserId, epoch: u64) {
        let mut raised = self.raised.write();
        let known = raised.entry(user).or_insert(INITIAL_EPOCH);
        *known = epoch.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
    const NOW: Timestamp = Timestamp(1_700_000_000_500);

    fn john() -> Actor {
        Actor {
            id: UserId(Uuid::from_u128(7)),
            username: "john".to_owned(),
        }
    }

    fn tokens() -> JwtTokens {
        JwtTokens::new(SECRET, [])
    }

    fn signed(algorithm: Algorithm, claims: &serde_json::Value) -> String {
        let key = EncodingKey::from_secret(SECRET);
        encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn good_claims() -> serde_json::Value {
        let seconds = NOW.0 / 1000;
        json!({"id": john().id, "username": "john", "iat": seconds, "exp": seconds + 60, "ver": 1})
    }

    #[test]
    fn a_token_speaks_for_its_owner_for_a_day() {
        let tokens = tokens();
        let token = tokens.issue(&john(), 1, NOW);
        let after = |seconds: i64| Timestamp(NOW.0 + seconds * 1000);
        assert_eq!(tokens.verify(&token, NOW), Ok(john()));
        assert_eq!(tokens.verify(&token, after(LIFETIME - 1)), Ok(john()));
        assert_eq!(tokens.verify(&token, after(LIFETIME)), Err(BadToken));
    }

    #[test]
    fn a_raised_epoch_ends_older_tokens() {
        let tokens = tokens();
        let old = tokens.issue(&john(), 1, NOW);
        let new = tokens.issue(&john(), 2, NOW);
        tokens.raise_epoch(john().id, 2);
        // News may arrive out of order; an epoch never falls.
        tokens.raise_epoch(john().id, 1);
        assert_eq!(tokens.verify(&old, NOW), Err(BadToken));
        assert_eq!(tokens.verify(&new, NOW), Ok(john()));
    }

    #[test]
    fn epochs_known_at_start_count() {
        let tokens = JwtTokens::new(SECRET, [(john().id, 3)]);
        assert_eq!(
            tokens.verify(&tokens.issue(&john(), 2, NOW), NOW),
            Err(BadToken)
        );
        assert!(tokens.verify(&tokens.issue(&john(), 3, NOW), NOW).is_ok());
    }

    #[test]
    fn other_algorithms_are_refused() {
        let tokens = tokens();
        let good = signed(Algorithm::HS256, &good_claims());
        assert!(tokens.verify(&good, NOW).is_ok());
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            let token = signed(algorithm, &good_claims());
            assert_eq!(tokens.verify(&token, NOW), Err(BadToken));
        }
        // {"alg":"none","typ":"JWT"}
        let claims = good.split('.').nth(1).unwrap();
        for signature in ["", good.rsplit('.').next().unwrap()] {
            let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.{signature}");
            assert_eq!(tokens.verify(&none, NOW), Err(BadToken));
        }
    }

    #[test]
    fn foreign_and_tampered_tokens_are_refused() {
        let tokens = tokens();
        let foreign = JwtTokens::new(b"another secret", []).issue(&john(), 1, NOW);
        let good = tokens.issue(&john(), 1, NOW);
        let longer = format!("{good}{}", "A".repeat(MAX_LENGTH));
        for token in [
            "",
            ".",
            "..",
            "a.b.c",
            "\u{0}",
            &foreign,
            &longer,
            &good[1..],
        ] {
            assert_eq!(tokens.verify(token, NOW), Err(BadToken), "{token}");
        }
        for index in [0, good.len() / 2, good.len() - 2] {
            let mut bytes = good.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let tampered = String::from_utf8(bytes).unwrap();
            assert_eq!(tokens.verify(&tampered, NOW), Err(BadToken));
        }
    }

    #[test]
    fn claims_of_wrong_types_are_refused() {
        let tokens = tokens();
        for (claim, value) in [
            ("id", json!(7)),
            ("id", json!("me")),
            ("username", json!(null)),
            ("exp", json!("tomorrow")),
            ("exp", json!(1.5)),
            ("ver", json!(-1)),
            ("ver", json!("1")),
        ] {
            let mut claims = good_claims();
            claims[claim] = value;
            let token = signed(Algorithm::HS256, &claims);
            assert_eq!(tokens.verify(&token, NOW), Err(BadToken), "{claims}");
        }
        for claim in ["id", "username", "exp", "ver"] {
            let mut claims = good_claims();
            claims.as_object_mut().unwrap().remove(claim);
            let token = signed(Algorithm::HS256, &claims);
            assert_eq!(tokens.verify(&token, NOW), Err(BadToken), "{claims}");
        }
    }
}

//! Reading the address of a remote store.

use percent_encoding::percent_decode_str;
use reqwest::Url;

use crate::media::OpenMediaError;

/// An address like `scheme://user:password@host/path?name=value`, decoded.
pub(in crate::media) struct Address {
    pub(in crate::media) user: Option<String>,
    pub(in crate::media) password: Option<String>,
    pub(in crate::media) host: String,
    /// Without slashes at its ends.
    pub(in crate::media) path: String,
    settings: Vec<(String, String)>,
}

impl Address {
    /// Reads an address that may have these settings behind its `?`, and no other.
    pub(in crate::media) fn read(url: &str, settings: &[&str]) -> Result<Self, OpenMediaError> {
        let url = Url::parse(url).map_err(|error| invalid(format!("not an address: {error}")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let address = Self {
            user: user.map(decode).transpose()?,
            password: url.password().map(decode).transpose()?,
            host,
            path: decode(url.path())?.trim_matches('/').to_owned(),
            settings: url.query_pairs().into_owned().collect(),
        };
        let known = |name: &String| settings.contains(&name.as_str());
        match address.settings.iter().find(|(name, _)| !known(name)) {
            Some((name, _)) => Err(invalid(format!(
                "there is no setting `{name}`, only {}",
                settings.join(", ")
            ))),
            None => Ok(address),
        }
    }

    /// A setting.
    pub(in crate::media) fn setting(&self, wanted: &str) -> Option<&str> {
        let setting = self.settings.iter().find(|(name, _)| name == wanted);
        setting.map(|(_, value)| value.as_str())
    }

    /// The setting `endpoint`, the address of a server, without a slash at its end.
    pub(in crate::media) fn endpoint(&self) -> Result<Option<&str>, OpenMediaError> {
        let Some(endpoint) = self.setting("endpoint") else {
            return Ok(None);
        };
        let url = Url::parse(endpoint).ok();
        let good = url.is_some_and(|url| ["http", "https"].contains(&url.scheme()));
        if !good {
            return Err(invalid(
                "endpoint must begin with http:// or https://".to_owned(),
            ));
        }
        Ok(Some(endpoint.trim_end_matches('/')))
    }
}

pub(in crate::media) fn invalid(message: String) -> OpenMediaError {
    OpenMediaError::Invalid(message)
}

fn decode(text: &str) -> Result<String, OpenMediaError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_| invalid("user, password and path must be percent-encoded UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_decoded() {
        let url = "s3://key:a%2Fb%2Bc+d@bucket/some/pre%20fix/?endpoint=http%3A%2F%2Fhost%3A1&region=here";
        let address = Address::read(url, &["endpoint", "region"]).unwrap();
        assert_eq!(address.user.as_deref(), Some("key"));
        assert_eq!(address.password.as_deref(), Some("a/b+c+d"));
        assert_eq!(
            (address.host.as_str(), address.path.as_str()),
            ("bucket", "some/pre fix")
        );
        assert_eq!(address.endpoint().unwrap(), Some("http://host:1"));
        assert_eq!(address.setting("region"), Some("here"));
    }
}

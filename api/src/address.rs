//! Who a request comes from: the peer, or whom a trusted proxy says it speaks for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use axum::extract::ConnectInfo;
use http::{Extensions, HeaderMap};

/// Networks of peers whose `X-Forwarded-For` is believed. The default is the loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

/// An address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is not a list of addresses and networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address or network: `{0}` (expected e.g. 127.0.0.0/8, ::1)")]
pub struct InvalidNetwork(String);

impl Default for TrustedProxies {
    fn default() -> Self {
        Self(vec![
            Network {
                address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
                bits: 8,
            },
            Network {
                address: IpAddr::V6(Ipv6Addr::LOCALHOST),
                bits: 128,
            },
        ])
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    /// Addresses and networks separated by commas; empty text trusts nobody.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| invalid()))?;
        if bits > most {
            return Err(invalid());
        }
        Ok(Self { address, bits })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The client's address: the peer's, or, while that is a trusted proxy's, the one it names. The header is read
    /// from its end, since everything before the last trusted hop may be invented by the client.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let mut hops = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|hop| hop.trim().parse::<IpAddr>().ok())
            .collect::<Vec<_>>();
        while self.contains(client) {
            match hops.pop() {
                Some(Some(hop)) => client = hop.to_canonical(),
                _ => break,
            }
        }
        client
    }
}

/// The client's address, if the server told the peer's. For limits: the 64-bit network of an IPv6 address, which one
/// client has all of.
pub(crate) fn client_address(
    trusted: &TrustedProxies,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip();
    Some(match trusted.client(peer.to_canonical(), headers) {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        headers
    }

    fn client(trusted: &str, peer: &str, values: &[&'static str]) -> String {
        let trusted: TrustedProxies = trusted.parse().unwrap();
        trusted
            .client(peer.parse().unwrap(), &forwarded(values))
            .to_string()
    }

    #[test]
    fn a_stranger_cannot_name_another_address() {
        assert_eq!(client("127.0.0.1", "10.0.0.9", &["1.2.3.4"]), "10.0.0.9");
        assert_eq!(client("", "127.0.0.1", &["1.2.3.4"]), "127.0.0.1");
    }

    #[test]
    fn a_trusted_proxy_is_believed_for_its_own_hop_only() {
        assert_eq!(
            client("127.0.0.0/8", "127.0.0.1", &["6.6.6.6, 1.2.3.4"]),
            "1.2.3.4"
        );
        assert_eq!(
            client(
                "127.0.0.0/8,10.0.0.0/8",
                "127.0.0.1",
                &["1.2.3.4", "10.1.1.1"]
            ),
            "1.2.3.4"
        );
        assert_eq!(
            client("127.0.0.0/8", "127.0.0.1", &["nonsense"]),
            "127.0.0.1"
        );
    }

    #[test]
    fn lists_of_networks_are_checked() {
        assert!("10.0.0.0/33".parse::<TrustedProxies>().is_err());
        assert!("example.org".parse::<TrustedProxies>().is_err());
        assert!("::1, 10.0.0.0/8,fd00::/8".parse::<TrustedProxies>().is_ok());
    }
}

//! Ranges of addresses as they are written: `10.0.0.0/8`, `2001:db8::/32`, `::1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.1`, RFC 4291 section 2.5.5.2) are IPv4 here, on both
/// sides: a socket that listens on both families shows its clients so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Bits behind the prefix are zero.
    pub address: IpAddr,
    /// At most 32 for IPv4, 128 for IPv6.
    pub prefix_bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkError {
    BadAddress(Box<str>),
    BadPrefix {
        prefix: Box<str>,
        max: u8,
    },
    /// An address within the network, not the network; this is the one that was probably meant.
    HostBits(Network),
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix_bits) == self.address
    }

    /// Whether all addresses of `other` are of this network.
    pub fn covers(&self, other: &Network) -> bool {
        self.prefix_bits <= other.prefix_bits && self.contains(other.address)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address_text, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address_text.parse().map_err(|_| NetworkError::BadAddress(address_text.into()))?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => max,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|bits| *bits <= max && prefix.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| NetworkError::BadPrefix { prefix: prefix.into(), max })?,
        };
        let network = Network { address: masked(address, prefix_bits), prefix_bits };
        if network.address != address {
            return Err(NetworkError::HostBits(network));
        }
        // The 96 bits that mark a mapped address.
        Ok(match (address.to_canonical(), prefix_bits) {
            (IpAddr::V4(v4), 96..) if address.is_ipv6() => {
                Network { address: v4.into(), prefix_bits: prefix_bits - 96 }
            }
            _ => network,
        })
    }
}

fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let behind = |width: u32| width.saturating_sub(u32::from(prefix_bits));
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(behind(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(behind(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::BadAddress(text) => write!(f, "`{text}` is no IP address"),
            NetworkError::BadPrefix { prefix, max } => {
                write!(f, "`{prefix}` is no prefix length: a number from 0 to {max}")
            }
            NetworkError::HostBits(network) => {
                write!(f, "bits are set behind the prefix; the network is {network}")
            }
        }
    }
}

impl std::error::Error for NetworkError {}

#[cfg(test)]
mod tests {
    use super::{Network, NetworkError};

    #[test]
    fn texts() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("10.1.2.3", Ok("10.1.2.3/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::/0", Ok("::/0")),
            ("::1", Ok("::1/128")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("::ffff:10.0.0.0/104", Ok("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Ok("10.0.0.1/32")),
            ("10.0.0.1/8", Err("bits are set behind the prefix; the network is 10.0.0.0/8")),
            ("2001:db8::1/32", Err("bits are set behind the prefix; the network is 2001:db8::/32")),
            ("10.0.0.0/33", Err("`33` is no prefix length: a number from 0 to 32")),
            ("::/129", Err("`129` is no prefix length: a number from 0 to 128")),
            ("10.0.0.0/", Err("`` is no prefix length: a number from 0 to 32")),
            ("10.0.0.0/+8", Err("`+8` is no prefix length: a number from 0 to 32")),
            ("10.0.0.0/8/8", Err("`8/8` is no prefix length: a number from 0 to 32")),
            ("10.0.0/8", Err("`10.0.0` is no IP address")),
            ("", Err("`` is no IP address")),
        ] {
            let parsed = text.parse::<Network>();
            let shown = parsed.as_ref().map(Network::to_string).map_err(NetworkError::to_string);
            assert_eq!(shown.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn addresses_inside_and_outside() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "::10.1.1.1", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", false),
            ("::/0", "::ffff:1.2.3.4", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
    }
}

//! Addresses of the web as far as the Hub needs them: `SCHEME://HOST[:PORT]/PATH`.

use std::fmt::{self, Write as _};

/// No honest address is longer; signed ones of the Hub's storage have about 1,500 characters.
const LONGEST: usize = 16 * 1024;

/// An absolute address with scheme http or https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    is_secure: bool,
    /// Host and port, in lower case.
    host: String,
    /// Path and query, beginning with a slash.
    path: String,
}

impl Address {
    /// Reads an absolute address; `None` if it is none, or has a user's name or a character that
    /// does not belong there.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let is_fine = !host.is_empty() && host.bytes().all(is_host);
        if !is_fine || text.len() > LONGEST || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Self {
            is_secure,
            host: host.to_ascii_lowercase(),
            path: format!("{slash}{path}"),
        })
    }

    /// Where a redirect from here leads.
    pub fn join(&self, location: &str) -> Option<Self> {
        let scheme = if self.is_secure { "https" } else { "http" };
        if location.contains("://") && !location.starts_with(['/', '?']) {
            Self::parse(location)
        } else if let Some(rest) = location.strip_prefix("//") {
            Self::parse(&format!("{scheme}://{rest}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{}{location}", self.host))
        } else {
            let path = self.path.split('?').next()?;
            let folder = &path[..=path.rfind('/')?];
            Self::parse(&format!("{scheme}://{}{folder}{location}", self.host))
        }
    }

    /// This address followed by `parts`, each encoded: a slash within a part is no separator.
    pub fn with<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut path = self.path.trim_end_matches('/').to_owned();
        for part in parts {
            path.push('/');
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    path.push(char::from(byte));
                } else {
                    // Writing to a String cannot fail.
                    let _ = write!(path, "%{byte:02X}");
                }
            }
        }
        let (is_secure, host) = (self.is_secure, self.host.clone());
        Self {
            is_secure,
            host,
            path,
        }
    }

    /// Whether both are the same server over the same scheme: what a token may be sent to.
    pub fn is_same_origin(&self, other: &Self) -> bool {
        self.is_secure == other.is_secure && self.host == other.host
    }

    /// Whether going to `other` would give up encryption.
    pub fn is_downgrade(&self, other: &Self) -> bool {
        self.is_secure && !other.is_secure
    }

    /// Whether the server is this machine.
    pub fn is_loopback(&self) -> bool {
        let host = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_browsers_do() {
        let from = Address::parse("https://Hub.example:8/a/b?c=d").unwrap();
        for (location, expected) in [
            ("https://x.example/y?z", "https://x.example/y?z"),
            ("http://x.example", "http://x.example/"),
            ("//x.example/y", "https://x.example/y"),
            ("/y?u=https://v", "https://hub.example:8/y?u=https://v"),
            ("y", "https://hub.example:8/a/y"),
        ] {
            assert_eq!(from.join(location).unwrap().to_string(), expected);
        }
        for location in [
            "ftp://x.example/y",
            "file:///etc/passwd",
            "https://",
            "https://user@hub.example/",
            "https://x.example/a b",
            "https://x.example/\r\nheader",
        ] {
            assert_eq!(from.join(location), None, "{location:?}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        let one = Address::parse("https://hub.example/a").unwrap();
        let is_same = |text: &str| one.is_same_origin(&Address::parse(text).unwrap());
        assert!(is_same("https://HUB.example/b"));
        assert!(!is_same("https://hub.example:8443/a"));
        assert!(!is_same("http://hub.example/a"));
        assert!(!is_same("https://hub.example.evil/a"));
    }

    #[test]
    fn parts_are_encoded() {
        let root = Address::parse("https://hub.example/mirror/").unwrap();
        let address = root.with(["refs/pr/1", "a b?#%"]).to_string();
        assert_eq!(
            address,
            "https://hub.example/mirror/refs%2Fpr%2F1/a%20b%3F%23%25"
        );
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        let is_loopback = |text: &str| Address::parse(text).unwrap().is_loopback();
        assert!(is_loopback("http://127.0.0.1:80/"));
        assert!(is_loopback("http://[::1]:80/"));
        assert!(is_loopback("http://localhost/"));
        assert!(!is_loopback("http://localhost.example/"));
    }
}

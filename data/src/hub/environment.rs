//! What the Hub's libraries take from the environment.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, parse_pem};

use super::cache::{folder_variable, hub_home};
use crate::Error;

/// A token has some 40 characters; a file of more than this is something else.
const LONGEST_TOKEN: u64 = 4096;

/// A variable's text; empty is as if it were not there.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Whether a variable says yes, in one of the words that the Hub's libraries know.
pub(super) fn is_set(name: &str) -> bool {
    let is_yes = |text: String| {
        let text = text.to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&text.as_str())
    };
    variable(name).is_some_and(is_yes)
}

/// `HF_TOKEN`, or what the command that logs in wrote to the file `HF_TOKEN_PATH` or `token` in the
/// Hub's folder.
pub(super) fn token() -> Result<Option<String>, Error> {
    if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = variable(name) {
            return checked_token(&token, Path::new(name));
        }
    }
    let file = folder_variable("HF_TOKEN_PATH").or_else(|| Some(hub_home()?.join("token")));
    match file {
        Some(file) if file.is_file() => {
            let mut text = String::new();
            File::open(&file)
                .and_then(|open| open.take(LONGEST_TOKEN).read_to_string(&mut text))
                .map_err(Error::io(&file, "read"))?;
            checked_token(&text, &file)
        }
        _ => Ok(None),
    }
}

/// The token without the space around it; none if nothing is left. Its text is never printed.
pub(super) fn checked_token(text: &str, origin: &Path) -> Result<Option<String>, Error> {
    let token = text.trim();
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        let found = "a space or another character";
        return Err(Error::format(
            origin,
            "token",
            "letters, digits and signs",
            found,
        ));
    }
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

/// The certificates of `SSL_CERT_FILE`, in place of the built-in ones of Mozilla.
pub(super) fn certificates() -> Result<Option<Vec<Certificate<'static>>>, Error> {
    let Some(path) = variable("SSL_CERT_FILE").map(PathBuf::from) else {
        return Ok(None);
    };
    let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
    let certificates: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(Error::format(
            &path,
            "certificates",
            "at least one in PEM",
            "none",
        )),
        false => Ok(Some(certificates)),
    }
}

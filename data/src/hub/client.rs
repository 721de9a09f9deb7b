//! One request to the Hub: where the token goes, which redirects are followed, which failures pass.

use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::address::Address;
use super::repo::RepoId;
use crate::Error;

/// Redirects that one request follows; the Hub needs two.
const REDIRECTS: usize = 5;

/// Bytes of progress after which earlier failures no longer count.
pub(super) const PROGRESS: u64 = 1 << 20;

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in a row that may fail without a mebibyte of progress.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause, and the longest that a server may ask for (`Retry-After`).
    pub longest_pause: Duration,
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

/// Speaks to one endpoint.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    pub endpoint: Address,
    token: Option<String>,
    pub patience: Patience,
}

/// What is asked for, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub repo: &'a RepoId,
    pub address: &'a Address,
    /// Only the headers.
    pub is_head: bool,
    /// Only the bytes from here on.
    pub from: u64,
    /// What may help if it is not there.
    pub missing: &'a str,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Box<Error>,
    /// Whether it may succeed later.
    pub passes: bool,
    /// How long the server asks to wait.
    pub wait: Option<Duration>,
    /// Bytes that it brought nevertheless.
    pub progress: u64,
}

impl Failure {
    pub fn lasting(error: Error) -> Self {
        Self {
            error: Box::new(error),
            passes: false,
            wait: None,
            progress: 0,
        }
    }

    pub fn passing(error: Error) -> Self {
        Self {
            passes: true,
            ..Self::lasting(error)
        }
    }
}

impl Call<'_> {
    /// An error of this request, at the address `at`.
    pub fn error(
        &self,
        at: &Address,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        // The query of a storage's address is a signature: nothing for a log.
        let url = at.to_string();
        Error::Hub {
            url: url.split('?').next().unwrap_or_default().into(),
            repo: self.repo.to_string().into(),
            expected: expected.into().into(),
            found: found.into().into(),
            hint: hint.into().into(),
        }
    }
}

impl Client {
    pub fn new(
        endpoint: Address,
        token: Option<String>,
        patience: Patience,
        certificates: Option<Vec<ureq::tls::Certificate<'static>>>,
    ) -> Self {
        let mut config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("rankwise/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence));
        if endpoint.is_loopback() {
            config = config.proxy(None);
        }
        if let Some(certificates) = certificates {
            let roots = ureq::tls::RootCerts::from(certificates);
            config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
        }
        Self {
            agent: config.build().into(),
            endpoint,
            token,
            patience,
        }
    }

    /// Does `attempt` until it succeeds, fails for good, or has failed too often.
    pub fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
        let mut failures = 0;
        let mut pause = self.patience.pause;
        loop {
            let failure = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if failure.progress >= PROGRESS {
                (failures, pause) = (0, self.patience.pause);
            }
            failures += 1;
            let wait = failure.wait.unwrap_or(pause);
            if !failure.passes || failures >= self.patience.attempts {
                return Err(*failure.error);
            }
            if wait > self.patience.longest_pause {
                return Err(*failure.error);
            }
            std::thread::sleep(wait);
            pause = (2 * pause).min(self.patience.longest_pause);
        }
    }

    /// The answer to one request, behind its redirects. `look` sees the headers of every answer of
    /// the endpoint's own server, and whether it is a redirect; when it says that it has seen enough,
    /// there is no answer.
    pub fn send(
        &self,
        call: Call<'_>,
        mut look: impl FnMut(&HeaderMap, bool) -> bool,
    ) -> Result<Option<Response<Body>>, Failure> {
        let mut address = call.address.clone();
        for _ in 0..=REDIRECTS {
            let response = self.hop(call, &address)?;
            let is_redirect = response.status().is_redirection();
            let is_own = self.endpoint.is_same_origin(&address);
            if is_own && look(response.headers(), is_redirect) {
                return Ok(None);
            }
            if !is_redirect {
                return Ok(Some(response));
            }
            let location = header(response.headers(), "location").unwrap_or_default();
            let wrong = |expected: &str| {
                let found = format!("{} to {location:?}", response.status().as_u16());
                Failure::lasting(call.error(&address, expected, found, OTHER_SERVER))
            };
            let next = address
                .join(location)
                .ok_or_else(|| wrong("a redirect to an address"))?;
            if address.is_downgrade(&next) {
                return Err(wrong("a redirect that stays encrypted"));
            }
            address = next;
        }
        let expected = format!("at most {REDIRECTS} redirects");
        let error = call.error(call.address, expected, "a further one", OTHER_SERVER);
        Err(Failure::lasting(error))
    }

    fn hop(&self, call: Call<'_>, address: &Address) -> Result<Response<Body>, Failure> {
        let url = address.to_string();
        let mut request = match call.is_head {
            true => self.agent.head(&url),
            false => self.agent.get(&url),
        };
        if call.from > 0 {
            request = request.header("range", format!("bytes={}-", call.from));
        }
        // The storage that the Hub leads to has its own signature in the address.
        if let Some(token) = self.token.as_ref()
            && self.endpoint.is_same_origin(address)
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|error| {
            let passes = is_passing(&error);
            let error = call.error(address, "an answer", error.to_string(), UNREACHABLE);
            Failure {
                passes,
                ..Failure::lasting(error)
            }
        })?;
        let status = response.status();
        let is_beyond = status == StatusCode::RANGE_NOT_SATISFIABLE && call.from > 0;
        match status.is_success() || status.is_redirection() || is_beyond {
            true => Ok(response),
            false => Err(self.refusal(call, address, &response)),
        }
    }

    /// What a status that is no success means.
    fn refusal(&self, call: Call<'_>, address: &Address, response: &Response<Body>) -> Failure {
        let headers = response.headers();
        let status = response.status();
        let mut found = format!("status {}", status.as_u16());
        for name in ["x-error-code", "x-error-message"] {
            if let Some(text) = header(headers, name) {
                let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                found += &format!(", {text}");
            }
        }
        let hint = match (status.as_u16(), &self.token) {
            (401, None) => "it is private or not there; a token is read from HF_TOKEN".to_owned(),
            (401, Some(_)) => "the token is not valid, or has no access".to_owned(),
            (403, _) => {
                let page = self.endpoint.with(call.repo.name().split('/'));
                format!("its conditions may have to be accepted at {page}")
            }
            (404, _) => call.missing.to_owned(),
            (429, _) => "the server asks for fewer requests; try again later".to_owned(),
            (500.., _) => "the server has a fault; try again later".to_owned(),
            _ => OTHER_SERVER.to_owned(),
        };
        let wait = header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
        if let Some(seconds) = wait {
            found += &format!(", wait {seconds} s");
        }
        Failure {
            passes: matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
            wait: wait.map(Duration::from_secs),
            ..Failure::lasting(call.error(address, "success", found, hint))
        }
    }
}

/// Said of answers that no Hub gives.
pub(super) const OTHER_SERVER: &str = "HF_ENDPOINT may name a server that is not the Hub's";

/// Said where nothing answers.
const UNREACHABLE: &str = "look at the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use \
                           what the cache has";

/// A header's text; none if it is not ASCII.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the same request may succeed later.
fn is_passing(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound
            | ureq::Error::Protocol(_)
    )
}

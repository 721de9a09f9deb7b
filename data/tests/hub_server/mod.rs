//! A server with the Hub's interface on this machine, which misbehaves on demand and remembers what
//! it was asked and how much it sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::{Digest, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, and how it was answered.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// The first byte asked for.
    pub from: usize,
    pub token: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// What Content-Length says; none, and the end of the connection is the body's end.
    pub length: Option<usize>,
    /// After so many bytes of the body the connection ends.
    pub cut: Option<usize>,
    /// Before the end of the connection nothing is said for so long.
    pub silence: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status,
            headers: Vec::new(),
            length: Some(body.len()),
            body,
            cut: None,
            silence: Duration::ZERO,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A repository, as it should be served.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Such as `models/me/mine`.
    pub id: &'static str,
    pub revision: &'static str,
    pub commit: &'static str,
    pub files: Vec<File>,
}

#[derive(Debug, Clone)]
pub struct File {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// In the storage for large files, which names them by SHA-256.
    pub is_large: bool,
}

impl File {
    pub fn etag(&self) -> String {
        if self.is_large {
            return rankwise_data::sha256_hex(&self.bytes);
        }
        let mut hash = Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len()));
        hash.update(&self.bytes);
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl Repository {
    pub fn mine() -> Self {
        let file = |name, bytes: &[u8], is_large| File {
            name,
            bytes: bytes.to_vec(),
            is_large,
        };
        Self {
            id: "models/me/mine",
            revision: "main",
            commit: COMMIT,
            files: vec![
                file("config.json", b"{\"a\": 1}", false),
                file("empty.txt", b"", false),
                file("model.safetensors", &numbers(300_000), true),
                file("onnx/deep/model.onnx", b"onnx", true),
            ],
        }
    }

    pub fn file(&self, name: &str) -> &File {
        self.files.iter().find(|file| file.name == name).unwrap()
    }

    /// What the Hub answers.
    pub fn reply(&self, seen: &Seen) -> Reply {
        let (kind, id) = self.id.split_once('/').unwrap();
        let prefix = if kind == "models" { "" } else { "/datasets" };
        let names = [self.revision, self.commit];
        for revision in names {
            if seen.path == format!("/api/{kind}/{id}/revision/{revision}") {
                let names: Vec<_> = self.files.iter().map(|file| file.name).collect();
                let list: Vec<_> = names
                    .iter()
                    .map(|n| serde_json::json!({"rfilename": n}))
                    .collect();
                let json = serde_json::json!({"sha": self.commit, "siblings": list, "id": id});
                return Reply::new(200, json.to_string());
            }
            for file in &self.files {
                if seen.path == format!("{prefix}/{id}/resolve/{revision}/{}", file.name) {
                    return self.file_reply(file, seen);
                }
            }
        }
        Reply::new(404, "Repository not found").with("X-Error-Code", "RepoNotFound")
    }

    fn file_reply(&self, file: &File, seen: &Seen) -> Reply {
        let size = file.bytes.len();
        let reply = match seen.from {
            0 => Reply::new(200, file.bytes.clone()),
            from if from >= size => {
                Reply::new(416, "").with("Content-Range", format!("bytes */{size}"))
            }
            from => Reply::new(206, &file.bytes[from..])
                .with("Content-Range", format!("bytes {from}-{}/{size}", size - 1)),
        };
        let reply = reply.with("X-Repo-Commit", self.commit);
        match file.is_large {
            true => reply
                .with("ETag", "\"of-the-storage\"")
                .with("X-Linked-Etag", format!("\"{}\"", file.etag()))
                .with("X-Linked-Size", size.to_string()),
            false => reply.with("ETag", format!("W/\"{}\"", file.etag())),
        }
    }
}

/// Bytes without a short period.
pub fn numbers(count: usize) -> Vec<u8> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

type Handler = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

/// Serves until it is dropped.
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Answers by `handler`, which is told how many requests came before.
    pub fn start(handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, stop) = (seen.clone(), stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (handler, log) = (handler.clone(), log.clone());
                thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Self {
            address,
            seen,
            stopped,
        }
    }

    /// A Hub with one repository that behaves.
    pub fn good(repository: Repository) -> Self {
        Self::start(move |seen, _| repository.reply(seen))
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Bytes of the file's body that were sent, over all requests.
    pub fn sent(&self, file: &str) -> usize {
        let of_file = |seen: &&Seen| seen.method == "GET" && seen.path.ends_with(file);
        self.seen()
            .iter()
            .filter(of_file)
            .map(|seen| seen.sent)
            .sum()
    }

    /// How many requests were made.
    pub fn count(&self) -> usize {
        self.seen().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Seen>>) {
    let Some(mut seen) = read(&stream) else {
        return;
    };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let reply = handler(&seen, before);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if let Some(length) = reply.length {
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    if seen.method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        if stream.write_all(&reply.body[..end]).is_ok() {
            seen.sent = end;
        }
    }
    log.lock().unwrap()[before] = seen;
    thread::sleep(reply.silence);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Until the other side has closed: what is unread would reset the connection.
    let _ = stream.read(&mut [0; 64]);
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        from: 0,
        token: None,
        sent: 0,
    };
    for line in lines {
        let line = line.ok()?;
        match line.split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                let from = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                seen.from = from.parse().ok()?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                seen.token = Some(value.to_owned());
            }
            Some(_) => {}
        }
    }
    Some(seen)
}

//! Ids of the Hub against a server that behaves, and against one that misbehaves in every way that
//! was thought of: after each failure the cache has nothing wrong under a final name, and a server
//! that behaves completes it.
#![cfg(feature = "hub")]

mod hub_server;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hub_server::{COMMIT, Reply, Repository, Seen, Server};
use proptest::prelude::*;
use rankwise_data::{
    Error, Hub, HubCache, HubFiles, HubProgress, Patience, RepoId, RepoKind, is_model_file,
    model_patterns,
};
use tempfile::TempDir;

const BIG: &str = "model.safetensors";

/// Short enough for tests, long enough for a loaded machine.
const PATIENCE: Patience = Patience {
    attempts: 4,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_secs(2),
    connect: Duration::from_secs(20),
    silence: Duration::from_secs(20),
};

fn hub(cache: &Path, server: &Server) -> Hub {
    Hub::new(HubCache::new(cache))
        .with_patience(PATIENCE)
        .with_endpoint(&server.address)
        .unwrap()
}

fn mine() -> RepoId {
    RepoId::parse(RepoKind::Model, "me/mine").unwrap()
}

fn resolve(hub: &Hub, patterns: &[&str]) -> Result<HubFiles, Error> {
    hub.resolve(&mine(), patterns, |_| ())
}

/// The parts of the one variant that says what the server did.
fn refused(result: Result<HubFiles, Error>) -> (String, String, String) {
    match result {
        Err(Error::Hub {
            expected,
            found,
            hint,
            repo,
            url,
        }) => {
            assert_eq!(&*repo, "model me/mine");
            assert!(url.starts_with("http://127.0.0.1:"), "{url}");
            (expected.into(), found.into(), hint.into())
        }
        other => panic!("{other:?}"),
    }
}

/// Every file and link below `folder`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found
}

/// Asserts that every blob with a final name is one of the repository's files, whole, and that
/// every link and reference leads to something.
fn assert_sound(cache: &Path) {
    let folder = cache.join("models--me--mine");
    let known: Vec<_> = Repository::mine()
        .files
        .iter()
        .map(|f| (f.etag(), f.bytes.clone()))
        .collect();
    for file in files(&folder) {
        let path = folder.join(&file);
        if let Some(blob) = file.strip_prefix("blobs/") {
            if !blob.ends_with(".incomplete") {
                let known = known.iter().find(|(etag, _)| etag == blob);
                assert_eq!(&fs::read(&path).unwrap(), &known.expect(blob).1, "{blob}");
            }
        } else if file.starts_with("refs/") {
            assert_eq!(fs::read_to_string(path).unwrap(), COMMIT);
        } else {
            assert!(file.starts_with(&format!("snapshots/{COMMIT}/")), "{file}");
            assert!(path.is_file(), "{file} leads nowhere");
        }
    }
}

/// Asserts that a server that behaves completes the cache; gives the bytes of the big file it sent.
fn assert_completes(cache: &Path) -> usize {
    assert_sound(cache);
    let server = Server::good(Repository::mine());
    let found = resolve(&hub(cache, &server), &["*"]).unwrap();
    let expected = Repository::mine();
    assert_eq!(found.files.len(), expected.files.len());
    for (path, file) in found.files.iter().zip(&expected.files) {
        assert_eq!(fs::read(path).unwrap(), file.bytes, "{}", file.name);
    }
    assert_sound(cache);
    assert!(
        !files(cache)
            .iter()
            .any(|file| file.ends_with(".incomplete"))
    );
    server.sent(BIG)
}

fn big() -> usize {
    Repository::mine().file(BIG).bytes.len()
}

fn is_big(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.ends_with(BIG)
}

fn part(cache: &Path) -> PathBuf {
    let etag = Repository::mine().file(BIG).etag();
    cache.join(format!("models--me--mine/blobs/{etag}.incomplete"))
}

#[test]
fn a_download_has_the_layout_of_the_hubs_libraries() {
    let cache = TempDir::new().unwrap();
    let server = Server::good(Repository::mine());
    let hub = hub(cache.path(), &server);
    let mut progress = Vec::new();
    let see = |p: HubProgress<'_>| progress.push((p.file.to_owned(), p.done, p.total));
    let found = hub
        .resolve(&mine(), &["*.safetensors", "*onnx", "config.json"], see)
        .unwrap();
    let root = cache.path().join("models--me--mine");
    let snapshot = root.join("snapshots").join(COMMIT);
    assert_eq!(found.commit, COMMIT);
    assert_eq!(found.folder, snapshot);
    let names = [BIG, "onnx/deep/model.onnx", "config.json"];
    assert_eq!(found.files, names.map(|name| snapshot.join(name)));
    let etag = |name: &str| Repository::mine().file(name).etag();
    let mut expected = BTreeSet::from(["refs/main".to_owned()]);
    for (name, up) in [
        (BIG, "../../"),
        ("config.json", "../../"),
        (names[1], "../../../../"),
    ] {
        let target = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(target, Path::new(up).join("blobs").join(etag(name)));
        expected.insert(format!("blobs/{}", etag(name)));
        expected.insert(format!("snapshots/{COMMIT}/{name}"));
    }
    assert_eq!(files(&root), expected);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(
        progress.last().unwrap(),
        &("config.json".to_owned(), 8, Some(8))
    );
    let of_big: Vec<_> = progress.iter().filter(|p| p.0 == BIG).collect();
    assert!(of_big.is_sorted_by_key(|p| p.1) && of_big[0].1 == 0);
    assert_eq!(of_big.last().unwrap().1, big() as u64);
    // From now on names need no server, and patterns only its list.
    let before = server.count();
    assert_eq!(resolve(&hub, &[BIG]).unwrap().files, [snapshot.join(BIG)]);
    assert_eq!(server.count(), before);
    assert_eq!(
        resolve(&hub, &["*.safetensors"]).unwrap().files,
        [snapshot.join(BIG)]
    );
    assert_eq!(server.count(), before + 1);
    assert_eq!(assert_completes(cache.path()), 0);
}

/// All of a model's files are brought, whichever its tokenizer has, and no others.
#[test]
fn a_models_files_are_brought_whichever_there_are() {
    let vocabularies: [&[&str]; 4] = [
        &[
            "vocab.json",
            "merges.txt",
            "added_tokens.json",
            "special_tokens_map.json",
        ],
        &[
            "spiece.model",
            "tokenizer_config.json",
            "preprocessor_config.json",
        ],
        &["sentencepiece.bpe.model"],
        &[
            "tokenizer.json",
            "vocab.txt",
            "spm.model",
            "tokenizer_config.json",
        ],
    ];
    let weights: [&[&str]; 3] = [
        &["model.safetensors"],
        &[
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ],
        &["pytorch_model.bin"],
    ];
    let patterns = model_patterns();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    for (vocabulary, weights) in vocabularies.iter().zip(weights.iter().cycle()) {
        let wanted = [&["config.json"], *vocabulary, *weights].concat();
        let others = [
            "README.md",
            "optimizer.bin",
            "onnx/model.onnx",
            "flax_model.msgpack",
        ];
        let file = |name: &&'static str| hub_server::File {
            name,
            bytes: name.as_bytes().to_vec(),
            is_large: name.ends_with(".safetensors"),
        };
        let server = Server::good(Repository {
            files: wanted.iter().chain(&others).map(file).collect(),
            ..Repository::mine()
        });
        let cache = TempDir::new().unwrap();
        let found = resolve(&hub(cache.path(), &server), &patterns).unwrap();
        let names = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let names: BTreeSet<String> = found.files.iter().map(names).collect();
        let expected = wanted.iter().map(|name| (*name).to_owned());
        assert_eq!(names, expected.collect::<BTreeSet<_>>());
        // What is brought is what a run's hashes are of, but for the list of the weights' parts.
        let is_hashed = |name: &String| is_model_file(name) || name.ends_with(".index.json");
        assert!(names.iter().all(is_hashed), "{names:?}");
    }
}

#[test]
fn data_sets_and_revisions_have_their_own_places() {
    let cache = TempDir::new().unwrap();
    let repository = Repository {
        id: "datasets/me/rows",
        revision: "refs%2Fpr%2F7",
        ..Repository::mine()
    };
    let server = Server::good(repository);
    let repo = RepoId::parse(RepoKind::Dataset, "me/rows@refs/pr/7").unwrap();
    let found = hub(cache.path(), &server)
        .resolve(&repo, &["config.json"], |_| ())
        .unwrap();
    let root = cache.path().join("datasets--me--rows");
    assert_eq!(
        found.files,
        [root.join("snapshots").join(COMMIT).join("config.json")]
    );
    assert_eq!(
        fs::read_to_string(root.join("refs/refs/pr/7")).unwrap(),
        COMMIT
    );
    // The commit itself needs no reference, and no server.
    let fixed = repo.with_revision(COMMIT).unwrap();
    let before = server.count();
    let again = hub(cache.path(), &server)
        .resolve(&fixed, &["config.json"], |_| ())
        .unwrap();
    assert_eq!((again, server.count()), (found, before));
}

#[test]
fn offline_what_is_missing_is_named() {
    let cache = TempDir::new().unwrap();
    let server = Server::good(Repository::mine());
    let online = hub(cache.path(), &server);
    let offline = online.clone().with_offline(true);
    let root = cache.path().join("models--me--mine");
    let lacks = |patterns: &[&str], name: &str, within: &Path| match resolve(&offline, patterns) {
        Err(Error::NotCached { repo, file, folder }) => {
            assert_eq!((repo.as_str(), file.as_str()), ("model me/mine", name));
            assert_eq!(folder, within);
        }
        other => panic!("{other:?}"),
    };
    lacks(&["config.json"], "config.json", &root);
    resolve(&online, &["config.json", "onnx/*"]).unwrap();
    let snapshot = root.join("snapshots").join(COMMIT);
    lacks(&["config.json", BIG], BIG, &snapshot);
    lacks(&["*.bin"], "*.bin", &snapshot);
    let before = server.count();
    let found = resolve(&offline, &["*.bin|*.onnx", "missing.txt|", "config.json"]).unwrap();
    let names = ["onnx/deep/model.onnx", "config.json"];
    assert_eq!(found.files, names.map(|name| snapshot.join(name)));
    assert_eq!(server.count(), before);
}

#[test]
fn a_moved_branch_is_seen_on_request_and_keeps_its_blobs() {
    const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
    let cache = TempDir::new().unwrap();
    let first = Server::good(Repository::mine());
    resolve(&hub(cache.path(), &first), &[BIG, "config.json"]).unwrap();
    let mut moved = Repository {
        commit: LATER,
        ..Repository::mine()
    };
    moved.files[0].bytes = b"{\"a\": 2}".to_vec();
    let second = Server::good(moved);
    let hub = hub(cache.path(), &second);
    // Not asked, not moved.
    assert_eq!(resolve(&hub, &["config.json"]).unwrap().commit, COMMIT);
    assert_eq!(second.count(), 0);
    let found = resolve(&hub.clone().with_refresh(true), &[BIG, "config.json"]).unwrap();
    assert_eq!(found.commit, LATER);
    assert_eq!(fs::read(&found.files[1]).unwrap(), b"{\"a\": 2}");
    assert_eq!(second.sent(BIG), 0);
    // From now on the branch stands for it, without being asked.
    let before = second.count();
    assert_eq!(resolve(&hub, &["config.json"]).unwrap().commit, LATER);
    assert_eq!(second.count(), before);
    let old = mine().with_revision(COMMIT).unwrap();
    let old = hub.resolve(&old, &["config.json"], |_| ()).unwrap();
    assert_eq!(fs::read(&old.files[0]).unwrap(), b"{\"a\": 1}");
}

#[test]
fn a_dropped_connection_is_resumed_at_once() {
    let cache = TempDir::new().unwrap();
    let tries = Mutex::new(0);
    let server = Server::start(move |seen, _| {
        let reply = Repository::mine().reply(seen);
        let mut tries = tries.lock().unwrap();
        match is_big(seen) {
            true if *tries < 3 => {
                *tries += 1;
                reply.cut(70_000)
            }
            _ => reply,
        }
    });
    let found = resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(
        fs::read(&found.files[0]).unwrap(),
        Repository::mine().file(BIG).bytes
    );
    let froms: Vec<_> = server
        .seen()
        .into_iter()
        .filter(is_big)
        .map(|s| s.from)
        .collect();
    assert_eq!(froms, [0, 70_000, 140_000, 210_000]);
    // No byte twice.
    assert_eq!(server.sent(BIG), big());
}

#[test]
fn a_download_that_was_given_up_is_resumed_later() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(|seen, _| {
        let reply = Repository::mine().reply(seen);
        if is_big(seen) {
            reply.cut(1_000)
        } else {
            reply
        }
    });
    let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert_eq!(expected, format!("{} bytes", big()));
    assert!(found.starts_with("4000 bytes"), "{found}");
    assert_eq!(server.seen().into_iter().filter(is_big).count(), 4);
    assert_eq!(fs::metadata(part(cache.path())).unwrap().len(), 4_000);
    assert_eq!(assert_completes(cache.path()), big() - 4_000);
}

#[test]
fn a_server_that_knows_no_ranges_starts_anew() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(|seen, before| {
        let whole = Seen {
            from: 0,
            ..seen.clone()
        };
        let reply = Repository::mine().reply(&whole);
        if is_big(seen) && before < 3 {
            reply.cut(5_000)
        } else {
            reply
        }
    });
    let found = resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(
        fs::read(&found.files[0]).unwrap(),
        Repository::mine().file(BIG).bytes
    );
    assert_eq!(server.sent(BIG), big() + 5_000);
    assert_eq!(assert_completes(cache.path()), 0);
}

/// What the answer to the request for the big file's bytes is turned into.
fn misbehaving(change: impl Fn(Reply, &Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |seen, _| {
        let reply = Repository::mine().reply(seen);
        if is_big(seen) {
            change(reply, seen)
        } else {
            reply
        }
    })
}

#[test]
fn a_wrong_length_is_refused() {
    for (length, says) in [
        (Some(299_999), "299999 bytes"),
        (Some(300_001), "300001 bytes"),
    ] {
        let cache = TempDir::new().unwrap();
        let server = misbehaving(move |reply, _| Reply { length, ..reply });
        let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert_eq!(expected, "300000 bytes");
        assert!(found.starts_with(says), "{found}");
        // For good: it was asked once.
        assert_eq!(server.seen().into_iter().filter(is_big).count(), 1);
        assert_eq!(assert_completes(cache.path()), big());
    }
}

#[test]
fn more_than_was_announced_is_cut_off() {
    let cache = TempDir::new().unwrap();
    let server = misbehaving(|reply, _| {
        let body = [reply.body, vec![0; 2_000_000]].concat();
        Reply {
            body,
            length: None,
            headers: Vec::new(),
            ..Reply::new(200, "")
        }
    });
    let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert_eq!(
        (expected.as_str(), found.as_str()),
        ("300000 bytes", "more")
    );
    assert!(!part(cache.path()).exists());
    assert_eq!(assert_completes(cache.path()), big());
}

#[test]
fn an_end_without_a_length_that_comes_too_early_is_resumed() {
    let cache = TempDir::new().unwrap();
    let server = misbehaving(|reply, seen| {
        let cut = (seen.from == 0).then_some(123);
        Reply {
            length: None,
            cut,
            ..reply
        }
    });
    resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(server.sent(BIG), big());
    assert_eq!(assert_completes(cache.path()), 0);
}

#[test]
fn bytes_with_another_hash_are_thrown_away() {
    for file in [BIG, "config.json"] {
        let cache = TempDir::new().unwrap();
        let server = Server::start(move |seen, _| {
            let mut reply = Repository::mine().reply(seen);
            if seen.path.ends_with(file) {
                reply.body[3] ^= 1;
            }
            reply
        });
        let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[file]));
        let etag = Repository::mine().file(file).etag();
        assert!(
            expected.ends_with(&etag) && found.len() == etag.len(),
            "{expected} {found}"
        );
        assert!(
            !files(cache.path())
                .iter()
                .any(|file| file.contains("/blobs/"))
        );
        assert_eq!(assert_completes(cache.path()), big());
    }
}

#[test]
fn a_first_part_of_something_else_is_thrown_away_once() {
    let cache = TempDir::new().unwrap();
    for wrong in [vec![7; 1_000], vec![7; big()], vec![7; big() + 1]] {
        let root = cache.path().join("models--me--mine");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("blobs")).unwrap();
        fs::write(part(cache.path()), &wrong).unwrap();
        let server = Server::good(Repository::mine());
        resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
        let resumed = if wrong.len() < big() {
            big() - wrong.len()
        } else {
            0
        };
        assert_eq!(server.sent(BIG), big() + resumed);
        assert_eq!(assert_completes(cache.path()), 0);
    }
}

#[test]
fn another_range_than_asked_for_is_refused() {
    let cache = TempDir::new().unwrap();
    let server = misbehaving(|reply, seen| match seen.from {
        0 => reply.cut(1_000),
        from => reply.with("Content-Range", format!("bytes {}-299999/300000", from + 1)),
    });
    let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert_eq!(
        (expected.as_str(), found.as_str()),
        ("the bytes from 1000", "from 1001")
    );
    assert_eq!(assert_completes(cache.path()), big() - 1_000);
}

#[test]
fn without_a_rest_the_file_is_asked_for_anew() {
    let cache = TempDir::new().unwrap();
    let server = misbehaving(|reply, seen| match seen.from {
        0 => reply,
        _ => Reply::new(416, ""),
    });
    fs::create_dir_all(part(cache.path()).parent().unwrap()).unwrap();
    fs::write(part(cache.path()), "of another file").unwrap();
    resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(assert_completes(cache.path()), 0);
}

#[test]
fn refusals_say_what_may_help() {
    let cache = TempDir::new().unwrap();
    let asked = |status: u16, token: Option<&str>| {
        let server = Server::start(move |_, _| {
            Reply::new(status, "no").with("X-Error-Message", "Access is restricted")
        });
        let mut hub = hub(cache.path(), &server);
        if let Some(token) = token {
            hub = hub.with_token(token).unwrap();
        }
        let error = refused(resolve(&hub, &["config.json"]));
        assert_eq!(error.0, "success");
        assert_eq!(error.1, format!("status {status}, Access is restricted"));
        // For good: it was asked once.
        assert_eq!(server.count(), 1);
        (error.2, server.address.clone())
    };
    assert!(asked(401, None).0.contains("HF_TOKEN"));
    assert!(asked(401, Some("secret")).0.contains("token is not valid"));
    let (hint, address) = asked(403, Some("secret"));
    assert!(hint.ends_with(&format!("{address}/me/mine")), "{hint}");
    assert_eq!(asked(404, None).0, "the name or the revision may be wrong");
    assert!(files(cache.path()).is_empty());
    assert_completes(cache.path());
}

#[test]
fn a_missing_file_is_answered_with_the_nearest() {
    let cache = TempDir::new().unwrap();
    let server = Server::good(Repository::mine());
    let (expected, _, hint) = refused(resolve(&hub(cache.path(), &server), &["model.safetensor"]));
    assert_eq!(expected, "file model.safetensor");
    assert_eq!(hint, "the nearest of its 4 files is model.safetensors");
    assert_eq!(server.count(), 1);
}

#[test]
fn a_missing_repository_is_answered_with_the_nearest_that_is_here() {
    let cache = TempDir::new().unwrap();
    for other in [
        "models--me--other-thing",
        "models--me--mines",
        "datasets--me--mine",
    ] {
        fs::create_dir(cache.path().join(other)).unwrap();
    }
    let server = Server::start(|_, _| Reply::new(404, ""));
    let (_, _, hint) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert!(hint.ends_with("; the cache has me/mines"), "{hint}");
}

#[test]
fn a_damaged_reference_is_mended() {
    let cache = TempDir::new().unwrap();
    assert_completes(cache.path());
    let reference = cache.path().join("models--me--mine/refs/main");
    for damaged in ["", "../../../outside", "a b", "\u{e9}"] {
        fs::write(&reference, damaged).unwrap();
        let server = Server::good(Repository::mine());
        let hub = hub(cache.path(), &server);
        let offline = resolve(&hub.clone().with_offline(true), &[BIG]);
        assert!(matches!(offline, Err(Error::Format { .. })), "{offline:?}");
        assert_eq!(resolve(&hub, &[BIG]).unwrap().commit, COMMIT);
        assert_sound(cache.path());
    }
    // Not UTF-8.
    fs::write(&reference, [0xff]).unwrap();
    let server = Server::good(Repository::mine());
    resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_sound(cache.path());
}

#[test]
fn an_endless_file_without_a_size_is_cut_off() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(|seen, _| {
        let mut reply = Repository::mine().reply(seen);
        if seen.path.ends_with(BIG) {
            reply.headers.retain(|(name, _)| *name != "X-Linked-Size");
            reply.length = None;
            if seen.method == "GET" {
                reply.body = vec![0; 80 << 20];
            }
        }
        reply
    });
    let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert_eq!(
        (expected.as_str(), found.as_str()),
        ("67108864 bytes", "more")
    );
    assert!(!part(cache.path()).exists());
    assert_eq!(assert_completes(cache.path()), big());
}

#[test]
fn a_file_without_a_size_is_checked_by_its_hash() {
    let cache = TempDir::new().unwrap();
    let tries = Mutex::new(0);
    let server = Server::start(move |seen, _| {
        let mut reply = Repository::mine().reply(seen);
        if seen.path.ends_with(BIG) {
            reply.headers.retain(|(name, _)| *name != "X-Linked-Size");
            reply.length = None;
            let mut tries = tries.lock().unwrap();
            // The first answer with bytes ends early, and nothing but the hash can tell.
            if seen.method == "GET" && *tries == 0 {
                *tries += 1;
                reply.cut = Some(9_000);
            }
        }
        reply
    });
    resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(server.sent(BIG), big() + 9_000);
    assert_eq!(assert_completes(cache.path()), 0);
}

#[test]
fn passing_faults_are_waited_for_and_counted() {
    for status in [429, 500, 502, 503, 504, 408] {
        // Every second request of each kind fails.
        let cache = TempDir::new().unwrap();
        let server = Server::start(move |seen, before| match before % 2 {
            0 => Reply::new(status, "").with("Retry-After", "0"),
            _ => Repository::mine().reply(seen),
        });
        resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
        assert_eq!(assert_completes(cache.path()), 0);
        // Always: as many attempts as there is patience.
        let cache = TempDir::new().unwrap();
        let server = Server::start(move |_, _| Reply::new(status, ""));
        let (_, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert_eq!(found, format!("status {status}"));
        assert_eq!(server.count(), 4);
        assert_completes(cache.path());
    }
}

#[test]
fn a_server_that_asks_to_wait_too_long_is_not_waited_for() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(|_, _| Reply::new(429, "").with("Retry-After", "3600"));
    let (_, found, hint) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert_eq!(found, "status 429, wait 3600 s");
    assert!(hint.contains("fewer requests"));
    assert_eq!(server.count(), 1);
}

#[test]
fn a_silent_server_is_given_up() {
    for says_nothing in [true, false] {
        let cache = TempDir::new().unwrap();
        let silence = Duration::from_millis(1_500);
        let server = Server::start(move |seen, _| {
            let reply = Repository::mine().reply(seen);
            if says_nothing && !is_big(seen) {
                std::thread::sleep(silence);
            }
            let cut = is_big(seen).then_some(10_000);
            Reply {
                cut,
                silence: if is_big(seen) {
                    silence
                } else {
                    Duration::ZERO
                },
                ..reply
            }
        });
        let patience = Patience {
            attempts: 2,
            silence: Duration::from_millis(300),
            ..PATIENCE
        };
        let hub = hub(cache.path(), &server).with_patience(patience);
        let (_, found, _) = refused(resolve(&hub, &[BIG]));
        assert!(found.contains("timeout"), "{found}");
        let expected = if says_nothing { big() } else { big() - 20_000 };
        assert_eq!(assert_completes(cache.path()), expected);
    }
}

#[test]
fn nothing_at_the_address_is_an_error_with_a_way_out() {
    let cache = TempDir::new().unwrap();
    let server = Server::good(Repository::mine());
    let hub = hub(cache.path(), &server);
    let address = server.address.clone();
    drop(server);
    // The port is free once the server's thread has seen that it is to stop.
    let address = address.trim_start_matches("http://");
    while std::net::TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
    let (_, _, hint) = refused(resolve(&hub, &[BIG]));
    assert!(hint.contains("HF_HUB_OFFLINE=1"), "{hint}");
}

#[test]
fn redirects_end() {
    let cache = TempDir::new().unwrap();
    for (location, says) in [
        ("/api/models/me/mine/revision/main", "a further one"),
        ("", ""),
        ("ftp://127.0.0.1/x", "302 to \"ftp://127.0.0.1/x\""),
        (
            "http://user@127.0.0.1/x",
            "302 to \"http://user@127.0.0.1/x\"",
        ),
    ] {
        let server = Server::start(move |_, _| Reply::new(302, "").with("Location", location));
        let (_, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert!(found.starts_with(says), "{found}");
        assert!(server.count() <= 6, "{}", server.count());
    }
    // Without a place to go.
    let server = Server::start(|_, _| Reply::new(307, ""));
    refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert!(server.count() <= 6);
    assert_completes(cache.path());
}

#[test]
fn a_token_goes_to_no_other_server() {
    let cache = TempDir::new().unwrap();
    let storage = Server::start(|seen, _| {
        let hub = Seen {
            path: seen
                .path
                .replace("/storage", "")
                .replace("?signature=s", ""),
            ..seen.clone()
        };
        let reply = Repository::mine().reply(&hub);
        // Dropped once: a resumed request is redirected again.
        if seen.from == 0 {
            reply.cut(100_000)
        } else {
            reply
        }
    });
    let target = storage.address.clone();
    let server = Server::start(move |seen, _| {
        match seen.path.ends_with(BIG) {
            true => Repository::mine()
                .reply(&Seen {
                    from: 0,
                    ..seen.clone()
                })
                .with(
                    "Location",
                    format!("{target}/storage{}?signature=s", seen.path),
                ),
            false => Repository::mine().reply(seen),
        }
        .redirecting()
    });
    let hub = hub(cache.path(), &server)
        .with_token(" hf_secret\n")
        .unwrap();
    assert!(!format!("{hub:?}").contains("secret"));
    let found = resolve(&hub, &[BIG, "config.json"]).unwrap();
    assert_eq!(
        fs::read(&found.files[0]).unwrap(),
        Repository::mine().file(BIG).bytes
    );
    let own = server.seen();
    assert!(
        own.iter()
            .all(|seen| seen.token.as_deref() == Some("Bearer hf_secret"))
    );
    let others = storage.seen();
    assert_eq!(
        others.iter().map(|seen| seen.from).collect::<Vec<_>>(),
        [0, 100_000]
    );
    assert!(others.iter().all(|seen| seen.token.is_none()));
    assert_eq!(assert_completes(cache.path()), 0);
}

trait Redirecting {
    fn redirecting(self) -> Self;
}

impl Redirecting for Reply {
    /// With its headers and a short text, if it says where to go.
    fn redirecting(self) -> Self {
        let leads = self.headers.iter().any(|(name, _)| *name == "Location");
        if !leads {
            return self;
        }
        Reply {
            headers: self.headers,
            ..Reply::new(302, "Found")
        }
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    let cache = TempDir::new().unwrap();
    let server = Server::start(|seen, _| match seen.path.contains("/me/mine") {
        true => {
            let to = seen.path.replace("/me/mine", "/you/yours");
            Reply::new(307, "moved")
                .with("Location", to)
                .with("ETag", "\"of-the-text\"")
        }
        false => Repository {
            id: "models/you/yours",
            ..Repository::mine()
        }
        .reply(seen),
    });
    let found = resolve(&hub(cache.path(), &server), &[BIG, "config.json"]).unwrap();
    assert_eq!(fs::read(&found.files[1]).unwrap(), b"{\"a\": 1}");
    assert_eq!(assert_completes(cache.path()), 0);
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in [
        "../outside",
        "/tmp/outside",
        "a/../../outside",
        "..\\outside",
        "a//b",
        "a/\u{0}b",
    ] {
        let above = TempDir::new().unwrap();
        let cache = above.path().join("cache");
        let server = Server::start(move |seen, _| {
            let mut repository = Repository::mine();
            repository.files[0].name = name;
            match seen.path.contains("/resolve/") {
                true => Reply::new(200, "x").with("ETag", "\"abc\""),
                false => repository.reply(seen),
            }
        });
        let (expected, found, _) = refused(resolve(&hub(&cache, &server), &["*"]));
        assert_eq!(expected, "names of files in the repository");
        assert_eq!(found, format!("{name:?}"));
        assert_eq!(server.count(), 1);
        assert!(files(above.path()).is_empty());
    }
}

#[test]
fn etags_and_commits_that_are_no_plain_words_are_refused() {
    for etag in [
        "../../../outside",
        "/etc/passwd",
        "",
        "a b",
        "..",
        "a.incomplete",
    ] {
        let above = TempDir::new().unwrap();
        let cache = above.path().join("cache");
        let server = Server::start(move |seen, _| {
            let reply = Repository::mine().reply(seen);
            let is_file = seen.path.contains("/resolve/");
            if is_file {
                reply.with("X-Linked-Etag", format!("\"{etag}\""))
            } else {
                reply
            }
        });
        let (expected, _, _) = refused(resolve(&hub(&cache, &server), &[BIG]));
        assert_eq!(expected, "an etag of letters and digits", "{etag}");
        assert!(files(above.path()).is_empty());
        assert_completes(&cache);
    }
    for commit in [
        "../../outside",
        "main",
        "",
        "0123",
        "0123456789ABCDEF0123456789abcdef01234567",
    ] {
        let cache = TempDir::new().unwrap();
        let server = Server::start(move |seen, _| {
            Repository {
                commit,
                ..Repository::mine()
            }
            .reply(seen)
        });
        let (expected, _, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert_eq!(expected, "a commit of 40 hexadecimal digits");
        assert!(files(cache.path()).is_empty());
    }
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let cases: [(&str, &str, &str); 3] = [
        (
            "X-Repo-Commit",
            "89abcdef0123456789abcdef0123456789abcdef",
            "commit 0123",
        ),
        ("X-Linked-Size", "many", "a size in bytes"),
        ("X-Linked-Size", "-1", "a size in bytes"),
    ];
    for (name, value, says) in cases {
        let cache = TempDir::new().unwrap();
        let server = Server::start(move |seen, _| {
            let reply = Repository::mine().reply(seen);
            if seen.path.contains("/resolve/") {
                reply.with(name, value)
            } else {
                reply
            }
        });
        let (expected, _, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert!(expected.starts_with(says), "{expected}");
        assert_completes(cache.path());
    }
    // A mirror that names neither a hash nor a size.
    let cache = TempDir::new().unwrap();
    let server = Server::start(|seen, _| match seen.path.contains("/resolve/") {
        true => Reply {
            length: None,
            ..Reply::new(200, "x").with("ETag", "\"5f3-6a\"")
        },
        false => Repository::mine().reply(seen),
    });
    let (expected, _, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert!(expected.contains("to check the file against"), "{expected}");
}

#[test]
fn a_list_that_is_none_is_refused() {
    let cache = TempDir::new().unwrap();
    for body in ["", "<html>", "{\"sha\": 1}", "[]", "{\"sha\": \"x\"}"] {
        let server = Server::start(move |_, _| Reply::new(200, body));
        let (expected, found, _) = refused(resolve(&hub(cache.path(), &server), &[BIG]));
        assert_eq!(expected, "a list of files");
        assert!(found.starts_with("JSON that is none"), "{found}");
    }
    // No HTTP at all: an attempt that may pass, so there are four.
    let server = Server::start(|_, _| Reply::new(200, "x").with("a b c\u{0}", "\u{1}"));
    refused(resolve(&hub(cache.path(), &server), &[BIG]));
    assert!(server.count() <= 4);
    assert!(files(cache.path()).is_empty());
    assert_completes(cache.path());
}

#[test]
fn a_lost_blob_and_a_foreign_one_are_replaced() {
    let cache = TempDir::new().unwrap();
    assert_completes(cache.path());
    let etag = Repository::mine().file(BIG).etag();
    let blob = cache.path().join(format!("models--me--mine/blobs/{etag}"));
    fs::remove_file(&blob).unwrap();
    let server = Server::good(Repository::mine());
    resolve(&hub(cache.path(), &server), &[BIG]).unwrap();
    assert_eq!(server.sent(BIG), big());
    assert_sound(cache.path());
}

#[test]
fn two_at_once_download_once() {
    let cache = TempDir::new().unwrap();
    let server = Server::good(Repository::mine());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| resolve(&hub(cache.path(), &server), &["*"]).unwrap());
        }
    });
    assert_eq!(server.sent(BIG), big());
    assert_eq!(assert_completes(cache.path()), 0);
}

/// Runs in a process of its own, whose environment its parent chose.
#[test]
#[ignore = "the child of the_environment_is_the_libraries_own"]
fn environment_child() {
    println!("{:?}", Hub::from_environment());
}

#[test]
fn the_environment_is_the_libraries_own() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("token"), "hf_of_the_login\n").unwrap();
    let home = folder.path().to_str().unwrap();
    let child = |variables: &[(&str, &str)]| {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["environment_child", "--exact", "--ignored", "--nocapture"])
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let all = child(&[
        ("HF_HOME", home),
        ("HF_ENDPOINT", "https://Mirror.example/hub/"),
        ("HF_HUB_OFFLINE", "yes"),
    ]);
    for expected in [
        &format!("root: \"{home}/hub\""),
        "endpoint: \"https://mirror.example/hub/\"",
        "has_token: true",
        "is_offline: true",
    ] {
        assert!(all.contains(expected), "{all}");
    }
    assert!(!all.contains("hf_of"), "{all}");
    let few = child(&[
        ("HOME", home),
        ("HF_HUB_CACHE", "~/c"),
        ("HF_TOKEN", "hf_x"),
    ]);
    for expected in [
        &format!("root: \"{home}/c\""),
        "https://huggingface.co/",
        "has_token: true",
        "is_offline: false",
    ] {
        assert!(few.contains(expected), "{few}");
    }
    let none = child(&[("HOME", "/nowhere"), ("HF_HUB_OFFLINE", "0")]);
    assert!(
        none.contains("root: \"/nowhere/.cache/huggingface/hub\""),
        "{none}"
    );
    assert!(
        none.contains("has_token: false") && none.contains("is_offline: false"),
        "{none}"
    );
    for (name, value) in [
        ("HF_ENDPOINT", "ftp://x"),
        ("HF_TOKEN", "a b"),
        ("SSL_CERT_FILE", "/no"),
    ] {
        let wrong = child(&[("HOME", home), (name, value)]);
        assert!(wrong.contains("Err("), "{wrong}");
    }
}

/// What a server does to a request for a file's bytes.
#[derive(Debug, Clone)]
enum Fault {
    Cut(usize),
    Flip(usize),
    Status(u16),
    Shorter(usize),
    NoRange,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let at = 0..400_000_usize;
    let fault = prop_oneof![
        at.clone().prop_map(Fault::Cut),
        at.clone().prop_map(Fault::Flip),
        prop_oneof![Just(429), Just(503), Just(404), Just(416), Just(206)].prop_map(Fault::Status),
        at.prop_map(Fault::Shorter),
        Just(Fault::NoRange),
    ];
    prop::collection::vec(fault, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a server does for a while, nothing wrong gets a final name, and one that behaves
    /// completes the cache.
    #[test]
    fn any_run_of_faults_leaves_a_sound_cache(faults in faults()) {
        let cache = TempDir::new().unwrap();
        let left = Mutex::new(faults.into_iter());
        let server = misbehaving(move |reply, seen| match left.lock().unwrap().next() {
            None => reply,
            Some(Fault::Cut(at)) => reply.cut(at),
            Some(Fault::Flip(at)) => {
                let mut reply = reply;
                if let Some(byte) = reply.body.get_mut(at) {
                    *byte ^= 0x55;
                }
                reply
            }
            Some(Fault::Status(status)) => Reply { status, ..reply },
            Some(Fault::Shorter(length)) => Reply { length: Some(length), ..reply },
            Some(Fault::NoRange) => Repository::mine().reply(&Seen { from: 0, ..seen.clone() }),
        });
        let found = resolve(&hub(cache.path(), &server), &[BIG]);
        assert_sound(cache.path());
        if let Ok(found) = found {
            let bytes = fs::read(&found.files[0]).unwrap();
            prop_assert!(bytes == Repository::mine().file(BIG).bytes);
        }
        assert_completes(cache.path());
    }
}

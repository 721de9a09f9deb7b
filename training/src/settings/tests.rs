use super::*;
use crate::{Error, RunConfig, TuneConfig};

fn given(text: &str) -> Given {
    Given::from_toml(text, "run.toml").unwrap()
}

/// What is said of a setting of fine-tuning that cannot be.
fn refused(key: &str, value: &str) -> String {
    let mut given = given("[model]\npath = \"m\"\n");
    let read = given
        .assign(key, value)
        .and_then(|()| given.read::<TuneConfig>());
    match read {
        Ok(_) => panic!("{key}={value} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_unknown_key_is_answered_with_all_that_there_are_and_the_one_that_was_meant() {
    for (key, hint) in [
        ("method.alhpa", "; did you mean \"alpha\"?"),
        ("method.dropuot", "; did you mean \"dropout\"?"),
        ("method.lora_alpha", "; lora_alpha is method.alpha here"),
        ("method.r", "; r is method.rank here"),
        (
            "method.modules_to_save",
            "; modules_to_save is method.train_also here",
        ),
        (
            "method.target_modules",
            "; target_modules is method.targets here",
        ),
        (
            "method.lora_dropout",
            "; lora_dropout is method.dropout here",
        ),
        (
            "method.use_rslora",
            "; use_rslora is method.name = \"rs-lora\" here",
        ),
        (
            "method.lambda",
            "; lambda is a setting of delta-lora, r-lora, rm-lora",
        ),
        ("epochs", "; did you mean \"schedule.epochs\"?"),
        (
            "schedule.learning_rate",
            "; did you mean \"optimizer.learning_rate\"?",
        ),
        (
            "optimizer.learning_rte",
            "; did you mean \"learning_rate\"?",
        ),
        ("task.columns.txt", "; did you mean \"text\"?"),
        (
            "task.features",
            "; it is one of heads over fixed features, which have no model",
        ),
    ] {
        let message = refused(key, "1");
        assert!(
            message.starts_with(&format!("--set {key}=1: key {key}: expected one of ")),
            "{message}"
        );
        assert!(
            message.ends_with(&format!("found an unknown key{hint}")),
            "{message}"
        );
    }
    // What is unknown is the table.
    let message = refused("methd.rank", "1");
    assert!(
        message.starts_with("--set methd.rank=1: key methd: expected one of seed, ")
            && message.ends_with("; did you mean \"method\"?"),
        "{message}"
    );
    let message = refused("method.alhpa", "1");
    let all = "name, rank, alpha, dropout, targets, rank_pattern, alpha_pattern, train_also, initialisation";
    assert!(message.contains(all), "{message}");
}

#[test]
fn a_wrong_value_is_said_in_the_words_of_a_configuration() {
    for (key, value, said) in [
        (
            "schedule.epochs",
            "many",
            "expected a whole number of at least 0, found \"many\"",
        ),
        (
            "schedule.epochs",
            "-1",
            "expected a whole number of at least 0, found -1",
        ),
        ("method.alpha", "[1]", "expected a number, found [1]"),
        (
            "method.targets",
            "query",
            "expected a list, such as [\"a\", \"b\"], found \"query\"",
        ),
        ("task.flip", "1", "expected true or false, found 1"),
        (
            "schedule.shape",
            "cosin",
            "expected one of linear, cosine, constant, found \"cosin\"; did you mean \"cosine\"?",
        ),
        (
            "method.name",
            "lorra",
            "expected a method, found unknown method \"lorra\"; did you mean \"lora\"?",
        ),
        (
            "task.random_crop.scale",
            "[0.1, 0.2, 0.3]",
            "expected two numbers, the least and the largest, found [0.1, 0.2, 0.3]",
        ),
        ("task", "3", "expected a table of"),
        ("task.name.more", "1", "expected a text"),
        ("a b", "1", "expected names with dots between them"),
    ] {
        let message = refused(key, value);
        assert!(message.contains(said), "{key}={value}: {message}");
        assert!(
            message.starts_with(&format!("--set {key}={value}: key ")),
            "{message}"
        );
        assert!(
            !message.contains('\n') && !message.contains("TOML parse"),
            "{message}"
        );
    }
}

#[test]
fn a_file_is_named_with_the_line() {
    let read = |text: &str| match Given::from_toml(text, "run.toml") {
        Ok(given) => given
            .read::<TuneConfig>()
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    for (text, said) in [
        (
            "seed = 1\n[task]\nname = 3\n",
            "run.toml:3: key task.name: expected a text, found 3",
        ),
        (
            "[method]\n\n# α\nalhpa = 1\n",
            "run.toml:4: key method.alhpa: expected one of",
        ),
        (
            "method.rank = 1\noptimizer = 3\n",
            "run.toml:2: key optimizer: expected a table of",
        ),
        (
            "seed = 1\n\nepochs 3\n",
            "run.toml:3: key (line): expected TOML",
        ),
        (
            "[nothing]\n",
            "run.toml:1: key nothing: expected one of seed, device",
        ),
    ] {
        let message = read(text).unwrap_err();
        assert!(message.contains(said), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    // What only the whole configuration shows is found again too.
    let given = given("[schedule]\nepochs = 0\n");
    let config: TuneConfig = given.read().unwrap();
    let error = given.located(config.check("configuration").unwrap_err());
    assert_eq!(
        error.to_string(),
        "run.toml:2: key schedule.epochs: expected at least 1, found 0"
    );
}

#[test]
fn a_recipe_of_a_transformer_without_a_model_is_said_to_be_one() {
    let read = given("[task]\nname = \"rte\"\n").read::<RunConfig>();
    let message = read.unwrap_err().to_string();
    assert!(
        message.starts_with("run.toml:2: key task.name: "),
        "{message}"
    );
    assert!(
        message.contains("needs --model DIR, or path under [model]"),
        "{message}"
    );
}

#[test]
fn later_settings_take_the_place_of_earlier_ones() {
    let mut given = given("[method]\nrank = 2\nrank_pattern = { query = 3 }\n");
    given.assign("method.rank", "4").unwrap();
    given.assign("method.rank_pattern.\"a.b\"", "5").unwrap();
    // A text that would be two lines of TOML is one value.
    given.assign("task.name", "x\"\nseed = 9").unwrap();
    let config: TuneConfig = given.read().unwrap();
    let common = &config.method.common;
    assert_eq!((common.rank, config.seed), (4, 0));
    let pattern: Vec<_> = common
        .rank_pattern
        .iter()
        .map(|(name, rank)| (name.as_str(), *rank))
        .collect();
    assert_eq!(pattern, [("a.b", 5), ("query", 3)]);
    assert_eq!(config.task.name, "x\"\nseed = 9");
}

#[test]
fn a_dump_has_a_comment_for_every_key_and_is_read_back() -> Result<(), Error> {
    for method in crate::Method::KEYS {
        let config = TuneConfig::from_toml(
            &format!(
                "[method]\nname = \"{method}\"\ntrain_also = [\"pooler\"]\n[task.random_crop]\n"
            ),
            "test",
        )?;
        let text = config.to_commented_toml();
        assert_eq!(TuneConfig::from_toml(&text, "test")?, config, "{method}");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_key = !line.starts_with('#') && !line.is_empty();
            assert!(
                !is_key || lines[at - 1].starts_with("# "),
                "{method}: {line}"
            );
        }
    }
    let text = RunConfig::default().to_commented_toml();
    assert_eq!(RunConfig::from_toml(&text, "test")?, RunConfig::default());
    assert!(
        text.contains("# The seed of every random stream of the run.\nseed = 0\n"),
        "{text}"
    );
    assert!(text.contains("# (alpha is not set)"), "{text}");
    Ok(())
}

//! Settings: their ranges, patterns of ranks and scales, and the words of PEFT.

use super::*;

fn message(text: &str) -> String {
    let case = Case::read("bert-cls");
    let outcome = toml::from_str::<MethodTable>(text).map_err(|error| error.to_string());
    let table = match outcome {
        Ok(table) => table,
        Err(message) => return message,
    };
    let loaded = case.load(DType::F64);
    match Tuned::new(loaded, &table, 7, DType::F64, &Device::Cpu) {
        Ok(_) => panic!("{text} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_out_of_range_are_named() {
    for (text, part) in [
        ("name = \"loraa\"", "\"lora\""),
        ("name = \"lora\"\nratio = 2.0", "ratio"),
        (
            "name = \"lora\"\nrank = 40",
            "method.rank: expected between 1 and 32",
        ),
        ("name = \"lora\"\nrank = 0", "found 0"),
        (
            "name = \"lora\"\nalpha = -1.0",
            "method.alpha: expected above 0",
        ),
        (
            "name = \"lora\"\ntargets = [\"classifier\"]",
            "the head trains as it is",
        ),
        ("name = \"lora\"\ntargets = [\"querry\"]", "query"),
        (
            "name = \"lora\"\ntrain_also = [\"query\"]",
            "method.train_also",
        ),
        ("name = \"lora-plus\"\nratio = 0.0", "method.ratio"),
        (
            "name = \"vera\"\nalpha = 2.0",
            "method.alpha: expected nothing",
        ),
        (
            "name = \"vera\"\nrank_pattern = { query = 2 }",
            "method.rank_pattern",
        ),
        ("name = \"adalora\"\nbeta1 = 1.0", "method.beta1"),
        (
            "name = \"adalora\"\nfirst_rank = 4",
            "method.first_rank: expected at least the rank 8",
        ),
        ("name = \"adalora\"\nperiod = 0", "method.period"),
        ("name = \"sora\"\nrounds = 0", "method.rounds"),
        ("name = \"sora\"\nthreshold = -1.0", "method.threshold"),
        (
            "name = \"dylora\"\nsmallest = 9",
            "method.smallest: expected between 1 and the largest rank 8",
        ),
        ("name = \"prilora\"\npruned = 1.0", "method.pruned"),
        (
            "name = \"delta-lora\"\ndropout = 0.1",
            "method.dropout: expected 0",
        ),
        (
            "name = \"bilora\"\nsecond_share = 1.0",
            "method.second_share",
        ),
        (
            "name = \"bitfit\"\ncomponents = [\"nothing\"]",
            "method.components",
        ),
        ("name = \"rm-lora\"\ndirections = 9", "method.directions"),
        ("name = \"rm-lora\"\nlambda = -1.0", "method.lambda"),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn ranks_and_scales_follow_patterns() {
    let text = "name = \"rs-lora\"\nrank = 4\nalpha = 8\nrank_pattern = { query = 2, '.*layer\\.1\\..*' = 3 }\n\
                alpha_pattern = { key = 5.0 }\ntargets = ['.*attention\\.self\\..*', \"word_embeddings\"]";
    let run = Run::new(&table(text));
    let found: Vec<_> = adapted(&run)
        .map(|(module, adapter)| {
            let rank = adapter.a.tensor(&run.tuned.parameters).dims()[0];
            let short = module.declared.name.rsplit('.').next().unwrap();
            (short, rank, adapter.scale)
        })
        .collect();
    let root = |rank: f64| rank.sqrt();
    // Patterns are tried in the order of their text: the expression comes before the name.
    let expected = [
        ("word_embeddings", 4, 8.0 / root(4.0)),
        ("query", 2, 8.0 / root(2.0)),
        ("key", 4, 5.0 / root(4.0)),
        ("value", 4, 8.0 / root(4.0)),
        ("query", 3, 8.0 / root(3.0)),
        ("key", 3, 5.0 / root(3.0)),
        ("value", 3, 8.0 / root(3.0)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn methods_have_words_of_peft() {
    let keys = |text: &str| {
        let mut run = Run::new(&table(text));
        run.begin();
        let peft = run.tuned.rule.peft();
        let keys: BTreeMap<_, _> = peft.keys.into_iter().collect();
        (peft.kind, keys)
    };
    let (kind, own) = keys("name = \"rs-lora\"");
    assert!(kind.is_none() && own["use_rslora"] == true);
    let (_, own) = keys("name = \"dora\"");
    assert!(own["use_dora"] == true);
    let (_, own) = keys("name = \"olora\"");
    assert_eq!(own["init_lora_weights"], "olora");
    let (kind, own) = keys("name = \"adalora\"\ninitial_steps = 1\nfinal_steps = 2");
    assert_eq!(kind, Some("ADALORA"));
    let of = |key: &str| own[key].as_u64();
    let found = [
        "init_r",
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "total_step",
    ]
    .map(of);
    assert_eq!(found, [6, 4, 1, 2, 1, STEPS].map(Some));
    let (kind, own) = keys("name = \"vera\"\nprojection_key = 5");
    assert_eq!(kind, Some("VERA"));
    assert_eq!(own["projection_prng_key"], 5);
}

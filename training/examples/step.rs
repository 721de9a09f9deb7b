fn main() {
    let threads: usize = std::env::args()
        .nth(1)
        .and_then(|t| t.parse().ok())
        .unwrap_or(1);
    let method = std::env::args().nth(2).unwrap_or("lora".into());
    let config = r#"{"model_type":"bert","hidden_size":384,"num_hidden_layers":6,"num_attention_heads":12,"intermediate_size":1536,"max_position_embeddings":512,"vocab_size":30522,"hidden_dropout_prob":0.0,"attention_probs_dropout_prob":0.0}"#;
    let bench = rankwise_training::StepBench {
        config: config.into(),
        method: rankwise_training::MethodTable {
            method: method.parse().unwrap(),
            ..Default::default()
        },
        sequences: 32,
        tokens: 64,
        steps: 5,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    println!("{:?}", pool.install(|| bench.run()).unwrap());
}

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let t = std::time::Instant::now();
    let audit = rankwise_analysis::audit(path.as_ref(), &Default::default()).unwrap();
    eprintln!("{:?}", t.elapsed());
    println!("{}", serde_json::to_string(&audit).unwrap());
}

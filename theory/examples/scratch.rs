use rankwise_theory::*;
use rand::SeedableRng;
fn main() {
    for (d, lbar, l) in [(64,1,2),(64,1,4),(64,1,6),(64,1,8),(64,2,4),(64,3,6),(16,1,4),(16,1,2),(16,2,4)] {
        let mut defects=vec![]; let mut roundings=vec![]; let mut bias=vec![]; let mut ratios=vec![vec![];5]; let mut meas=vec![];
        for seed in 0..9 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let p = Family::Gaussian.draw(d, Partition::uniform(l,lbar).unwrap(), 1.0, &mut rng).unwrap();
            let s = Sample::gaussian(500, d, &mut rng).unwrap();
            let sig = s.second_moment().unwrap();
            let r = d/(2*l/lbar).max(1);
            let ranks = vec![r; l];
            let v = p.verify(&ranks,&s,&sig,Lift::Sample).unwrap();
            if let Outcome::Measured(m) = v.outcome {
                defects.push(m.defects.iter().cloned().fold(0.0,f64::max)); roundings.push(m.rounding/m.error); meas.push(m.error);
                for (i,b) in [v.bounds.literal,v.bounds.trace,v.bounds.corrected,v.bounds.spectral,m.tail].iter().enumerate() { ratios[i].push(b/m.error) }
                let c = p.construct(&ranks, Domain::Sample(&s)).unwrap();
                bias.push(c.adapted().biases().iter().map(|b| b.iter().fold(0.0f64,|a,x|a.max(x.abs()))).fold(0.0,f64::max));
            } else { println!("singular {:?}", v.outcome) }
        }
        let med=|v:&mut Vec<f64>| {v.sort_by(f64::total_cmp); if v.is_empty() {f64::NAN} else {v[v.len()/2]}};
        println!("D{d} Lbar{lbar} L{l} defect {:.1e} rounding/error {:.1e} bias {:.1} measured {:.3} ratios {:?}", med(&mut defects), med(&mut roundings), med(&mut bias), med(&mut meas), ratios.iter_mut().map(|r| format!("{:.1}",med(r))).collect::<Vec<_>>());
    }
    let t=std::time::Instant::now();
    let g=verify_grid(&Grid::default(), |_|{}).unwrap();
    println!("grid {} records {:?}", g.len(), t.elapsed());
    println!("{}", serde_json::to_string(&g[3]).unwrap());
    println!("{}", serde_json::to_string(&g[16]).unwrap());
    let n=|f: fn(&CellRecord)->Option<bool>| g.iter().filter(|r| f(r)==Some(true)).count();
    println!("lit {} trace {} cor {} spec {} tail {} max defect {:?}", n(|r|r.violated_literal),n(|r|r.violated_trace),n(|r|r.violated_corrected),n(|r|r.violated_spectral),n(|r|r.violated_tail), g.iter().filter_map(|r|r.defect).fold(0.0,f64::max));
    println!("max rounding {:?} max measured where exact {:?}", g.iter().filter_map(|r|r.rounding).fold(0.0,f64::max), g.iter().filter(|r|r.exact).filter_map(|r|r.measured).fold(0.0,f64::max));
    for fam in [Family::NearIdentity{noise:0.5},Family::NearIdentity{noise:0.1}, Family::LowRank{rank:4}] { let g=verify_grid(&Grid{families:vec![fam],..Grid::default()}, |_|{}).unwrap();
    println!("{fam} singular {} max defect {:?} maxrounding {:?}", g.iter().filter(|r|r.measured.is_none()).count(), g.iter().filter_map(|r|r.defect).fold(0.0,f64::max), g.iter().filter_map(|r|r.rounding).fold(0.0,f64::max)); }
}

use rankwise_theory::*;
use rand::SeedableRng;
fn main() {
    for l in [2,4,6,8] { let d=64; let mut cs=vec![]; let mut ws=vec![]; let mut q1s=vec![];
        for seed in 0..9 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let p = Family::Gaussian.draw(d, Partition::uniform(l,1).unwrap(), 1.0, &mut rng).unwrap();
            let s = Sample::gaussian(500, d, &mut rng).unwrap();
            let r = d/(2*l);
            let c = p.construct(&vec![r; l], Domain::Sample(&s)).unwrap();
            let mut off = ndarray::Array1::<f64>::zeros(d); let mut m=0f64;
            for i in 0..l-1 { off = &c.adapted().biases()[i] + &c.adapted().weights()[i].dot(&off); m=off.iter().fold(m,|a,x| a.max(x.abs())); }
            cs.push(m);
            ws.push(c.adapted().weights()[l-1].iter().fold(0.0,|a:f64,x|a.max(x.abs()))); q1s.push(rankwise_analysis::linalg::singular_values(c.adapted().weights()[0].view()).unwrap()[0]);
        }
        for v in [&mut cs,&mut ws,&mut q1s] {v.sort_by(f64::total_cmp);}
        println!("L{l} offset {:.1} last weight max {:.1} first sigma {:.2}", cs[4], ws[4], q1s[4]);
    }
}

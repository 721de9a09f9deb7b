//! Methods whose steps differ from each other: moving weights, levels, masks.

use super::*;
use crate::method::Level;

#[test]
fn delta_lora_telescopes() {
    let mut run = Run::new(&table(
        "name = \"delta-lora\"\nstart = 1\nlambda = 3.0\nalpha = 8",
    ));
    let product = |run: &Run| {
        let of = |part: &str| {
            run.tuned
                .parameters
                .view(run.find(&format!("{QUERY}.{part}")))
        };
        of("lora_B").t().unwrap().matmul(of("lora_A")).unwrap()
    };
    let weight = |run: &Run| {
        let (module, _) = adapted(run).next().unwrap();
        assert_eq!(module.declared.name, QUERY);
        module.weight.tensor(&run.tuned.parameters).clone()
    };
    let base = weight(&run);
    let mut expected = base.clone();
    for number in 0..STEPS {
        let before = product(&run);
        run.step();
        if number > 1 {
            let change = (product(&run) - before).unwrap();
            expected = (expected + (change * (3.0 * 2.0)).unwrap()).unwrap();
        }
        assert!(relative(&flat(&weight(&run)), &flat(&expected)) < ROUNDING);
        let is_same = flat(&weight(&run)) == flat(&base);
        assert_eq!(is_same, number <= 1);
    }
    // The weight's change and the branch together: rank 2R at most, here 8 of 32, and more than R.
    let branch = (product(&run) * 2.0).unwrap();
    let whole = ((weight(&run) - base).unwrap() + branch).unwrap();
    let sigma = spectrum(&whole);
    assert!(
        sigma[8] < 1e-12 * sigma[0] && sigma[4] > 1e-6 * sigma[0],
        "{sigma:?}"
    );
}

#[test]
fn bilora_moves_one_level_at_a_time() {
    let mut run = Run::new(&table(
        "name = \"bilora\"\ninner_steps = 2\nsecond_share = 0.3",
    ));
    assert_eq!(run.tuned.rule.split(), Some(0.3));
    for number in 0..STEPS {
        let level = run.tuned.rule.level(at(number));
        assert_eq!(level == Level::Second, number % 3 == 2);
        let values = |run: &Run| {
            let parts = run.tuned.parameters.parts();
            let moments = run.optimizer.moments();
            parts
                .map(|(id, part)| {
                    let first = moments.first.narrow(0, part.start, part.count()).unwrap();
                    let both = [flat(run.tuned.parameters.view(id)), flat(&first)];
                    (
                        part.name.clone(),
                        both.concat(),
                        moments.updates[id.index()].clone(),
                    )
                })
                .collect::<Vec<_>>()
        };
        let before = values(&run);
        run.step();
        for ((name, before, updates), (_, after, updates_after)) in
            before.into_iter().zip(values(&run))
        {
            let moves = name.ends_with("lora_lambda") == (level == Level::Second);
            assert_eq!(before != after, moves, "step {number}: {name}");
            assert_eq!(updates != updates_after, moves, "step {number}: {name}");
        }
    }
}

/// λ's gradient through the directions is −(∂²L/∂λ∂V)·v: here by differences in λ of v's product with
/// the gradient of V, the other way round than the method takes them.
#[test]
fn biloras_response_is_a_second_derivative() {
    // What its difference over ‖εv‖ = 0.01 leaves of the third derivative.
    let tolerance = 1e-3;
    for values in ["softmax", "free", "binary"] {
        let text = format!("name = \"bilora\"\ninner_steps = 1\nvalues = \"{values}\"");
        let mut run = Run::new(&table(&text));
        run.steps(5);
        run.begin();
        let Tuned {
            rule, parameters, ..
        } = &run.tuned;
        assert_eq!(rule.looks_back(at(5)), Some(4));
        let before = parameters.values().copy().unwrap();
        let direct = run.task(None).gradients;
        let mut gradients = run.task(None).gradients;
        let earlier = || Ok(run.task(None).gradients);
        rule.respond(parameters, &mut gradients, &earlier).unwrap();
        assert_eq!(flat(parameters.values()), flat(&before), "put back");
        let is_gate = |id| parameters.part(id).name.ends_with("lora_lambda");
        let along = || {
            let now = run.task(None).gradients;
            let each = parameters
                .parts()
                .filter(|(id, _)| !is_gate(*id))
                .map(|(id, _)| {
                    let product = direct.parameter(id).unwrap() * now.parameter(id).unwrap();
                    flat(&product.unwrap()).iter().sum::<f64>()
                });
            each.sum::<f64>()
        };
        let gates: Vec<_> = parameters.parts().filter(|(id, _)| is_gate(*id)).collect();
        assert!(gates.len() > 3);
        for (id, part) in gates.into_iter().step_by(3) {
            let kept = parameters.view(id).copy().unwrap();
            let found = flat(gradients.parameter(id).unwrap());
            let found: Vec<f64> = found
                .iter()
                .zip(flat(direct.parameter(id).unwrap()))
                .map(|(whole, direct)| whole - direct)
                .collect();
            let size = found.iter().fold(0.0_f64, |most, one| most.max(one.abs()));
            assert!(size > 0.0);
            for (at, found) in found.iter().enumerate() {
                let moved = |by: f64| {
                    let mut numbers = flat(&kept);
                    numbers[at] += by;
                    let moved = Tensor::new(numbers, &Device::Cpu).unwrap();
                    parameters.set(id, &moved).unwrap();
                    along()
                };
                let step = 1e-4;
                let expected = -(moved(step) - moved(-step)) / (2.0 * step);
                parameters.set(id, &kept).unwrap();
                let name = &part.name;
                assert!(
                    (found - expected).abs() <= tolerance * size,
                    "{values}: {name}[{at}]: {found} instead of {expected}"
                );
            }
        }
    }
}

#[test]
fn unselected_directions_stay_or_drift() {
    for (unselected, drifts) in [("still", false), ("moments", true)] {
        let text = format!("name = \"rm-lora\"\ndirections = 2\nunselected = \"{unselected}\"");
        let mut run = Run::new(&table(&text));
        let name = format!("{QUERY}.lora_B");
        let part = run.tuned.parameters.part(run.find(&name)).clone();
        let rows = |run: &Run| {
            let first = run.optimizer.moments().first;
            let first = flat(&first)[part.start..part.start + part.count()].to_vec();
            let values = run.values(&name);
            let rows = values.chunks(32).zip(first.chunks(32));
            rows.map(|(v, m)| (v.to_vec(), m.to_vec()))
                .collect::<Vec<_>>()
        };
        let mut met = 0;
        let mut moved = [false; 4];
        for _ in 0..STEPS {
            let before = rows(&run);
            run.begin();
            let moving = adapted(&run).next().unwrap().1.moving.clone().unwrap();
            assert_eq!(moving.len(), 2);
            run.step();
            let after = rows(&run);
            for at in 0..4 {
                if moving.contains(&(at as u32)) {
                    moved[at] = true;
                    assert_ne!(before[at].0, after[at].0);
                } else if moved[at] {
                    met += 1;
                    assert_eq!(before[at].0 != after[at].0, drifts, "{unselected}");
                    let kept = if drifts { 0.9 } else { 1.0 };
                    let expected: Vec<_> = before[at].1.iter().map(|m| kept * m).collect();
                    assert_eq!(after[at].1, expected, "{unselected}");
                } else {
                    assert_eq!(before[at], after[at]);
                }
            }
        }
        assert!(met > 0);
    }
}

#[test]
fn masks_are_drawn_once_an_epoch_if_asked() {
    let masks = |period: &str| -> Vec<Vec<Vec<u32>>> {
        let text = format!("name = \"gm-lora\"\ndirections = 2\nmask = \"{period}\"");
        let mut run = Run::new(&table(&text));
        (0..STEPS)
            .map(|number| {
                run.next = number;
                run.begin();
                adapted(&run)
                    .map(|(_, adapter)| adapter.moving.clone().unwrap())
                    .collect()
            })
            .collect()
    };
    let by_step = masks("step");
    assert!(by_step.windows(2).all(|pair| pair[0] != pair[1]));
    let by_epoch = masks("epoch");
    for (number, pair) in by_epoch.windows(2).enumerate() {
        assert_eq!(pair[0] == pair[1], number % 2 == 0);
    }
}

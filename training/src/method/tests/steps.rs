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

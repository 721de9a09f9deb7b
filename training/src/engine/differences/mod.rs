//! Every operation's way back against central differences, in float64.

mod bench;

use candle_core::{Device, Tensor};

use self::bench::{Bench, Leaves, compare, declared, flat, frozen};
use super::attention::Attention;
use super::decomposed::row_lengths;
use super::disentangled::Relative;
use super::distances::Distances;
use super::norm::Norm;
use super::{Activation, Lengths, ParameterId, Tape};
use crate::draw::normal;
use crate::module::{Adapter, Module, Value};

const ATTENTION: Attention = Attention {
    heads: 2,
    scale: 0.7,
    is_causal: false,
    dropout: 0.3,
    site: 4,
};

#[test]
fn norms_and_activations() {
    Bench::new(&[&[3, 17], &[17], &[17]]).check("norm", |tape, leaves| {
        let (weight, bias) = (
            Value::Trained(tape_id(tape, 1)),
            Value::Trained(tape_id(tape, 2)),
        );
        let norm = Norm {
            weight: &weight,
            bias: &bias,
            epsilon: 1e-5,
        };
        tape.layer_norm(&leaves[0], norm).unwrap()
    });
    for (name, function) in Activation::NAMES {
        Bench::new(&[&[4, 9]]).check(name, |tape, leaves| {
            tape.activation(&leaves[0], function).unwrap()
        });
    }
    Bench::new(&[&[4, 9]])
        .with_noise()
        .check("dropout", |tape, leaves| {
            tape.dropout(&leaves[0], 2, 0.4).unwrap()
        });
}

/// The parameter number `index`.
fn tape_id(tape: &Tape<'_>, index: usize) -> ParameterId {
    tape.parameters.parts().nth(index).unwrap().0
}

#[test]
fn linear_layers() {
    let linear = declared(|modules| modules.linear("m", 5, 6));
    let conv1d = declared(|modules| modules.conv1d("m", 5, 6));
    let patches = declared(|modules| modules.convolution("m", [6, 1, 5]));
    let shapes: [(&Module, &[usize]); 3] = [
        (&linear, &[6, 5]),
        (&conv1d, &[5, 6]),
        (&patches, &[6, 1, 5]),
    ];
    for (module, shape) in shapes {
        let bench = Bench::new(&[&[4, 5], shape, &[6]]);
        let mut module = module.clone();
        (module.weight, module.bias) = (bench.value(1), Some(bench.value(2)));
        bench.check("weights", |tape, leaves| {
            tape.linear(&leaves[0], &module).unwrap()
        });
    }
}

/// A module of 5 inputs and 6 outputs with an update of rank 3: x, A, Bᵀ, g and o are parameters.
fn adapted(bench: &Bench, is_conv1d: bool, dropout: f64) -> Module {
    let mut module = match is_conv1d {
        true => declared(|modules| modules.conv1d("m", 5, 6)),
        false => declared(|modules| modules.linear("m", 5, 6)),
    };
    let shape: &[usize] = if is_conv1d { &[5, 6] } else { &[6, 5] };
    (module.weight, module.bias) = (frozen("w", shape), Some(frozen("b", &[6])));
    let mut adapter = Adapter::product(bench.ids[1], bench.ids[2], 0.6, dropout);
    adapter.gate = bench.ids.get(3).map(|id| Value::Trained(*id));
    adapter.output_gate = bench.ids.get(4).map(|id| Value::Trained(*id));
    module.adapter = Some(adapter);
    module
}

const ADAPTED: [&[usize]; 5] = [&[4, 5], &[3, 5], &[3, 6], &[3], &[6]];

#[test]
fn updates_with_gates_and_dropout() {
    for is_conv1d in [false, true] {
        for (shapes, dropout) in [(3, 0.0), (4, 0.0), (5, 0.0), (5, 0.4)] {
            let bench = Bench::new(&ADAPTED[..shapes]).with_noise();
            let module = adapted(&bench, is_conv1d, dropout);
            bench.check("update", |tape, leaves| {
                tape.linear(&leaves[0], &module).unwrap()
            });
        }
    }
}

#[test]
fn another_use_of_a_module_has_its_own_dropout_and_way_back() {
    let bench = Bench::new(&ADAPTED[..3]).with_noise();
    let module = adapted(&bench, false, 0.5);
    let both = |tape: &Tape<'_>, leaves: &Leaves| {
        let first = tape.linear(&leaves[0], &module).unwrap();
        let second = tape.linear_again(&leaves[0], &module, 1).unwrap();
        assert_ne!(flat(&first.value), flat(&second.value));
        tape.add(&first, &second).unwrap()
    };
    bench.check("two uses", both);
}

#[test]
fn only_moving_directions_get_gradients() {
    let bench = Bench::new(&ADAPTED[..4]);
    let mut module = adapted(&bench, false, 0.0);
    if let Some(adapter) = &mut module.adapter {
        adapter.moving = Some(vec![0, 2]);
    }
    let function = |tape: &Tape<'_>, leaves: &Leaves| tape.linear(&leaves[0], &module).unwrap();
    let (_, ours) = bench.evaluate(&function, true);
    let mut slopes = bench.differences(&function, |_| ());
    // Direction 1 of A and of B stands still; all directions carry the input's gradient.
    slopes[1][5..10].fill(0.0);
    slopes[2][6..12].fill(0.0);
    compare("moving", &ours, &slopes);
}

#[test]
fn directions_beyond_those_in_use_get_none() {
    let bench = Bench::new(&ADAPTED[..4]);
    let mut module = adapted(&bench, false, 0.0);
    if let Some(adapter) = &mut module.adapter {
        adapter.used = Some(2);
    }
    bench.check("used", |tape, leaves| {
        tape.linear(&leaves[0], &module).unwrap()
    });
}

/// The norm is a constant on the way back: differences keep m/‖W + s·BA‖ where it was.
#[test]
fn decomposed_layers() {
    for dropout in [0.0, 0.4] {
        let bench = Bench::new(&[&[4, 5], &[3, 5], &[3, 6], &[6]]).with_noise();
        let mut module = adapted(&bench, false, dropout);
        if let Some(adapter) = &mut module.adapter {
            (adapter.gate, adapter.magnitude) = (None, Some(bench.ids[3]));
        }
        let weight = module.weight.tensor(&bench.parameters).t().unwrap();
        let view = |index: usize| bench.parameters.view(bench.ids[index]).copy().unwrap();
        let lengths = || row_lengths(&weight, &view(1), &view(2), 0.6).unwrap();
        let (magnitude, start) = (view(3), lengths());
        let function = |tape: &Tape<'_>, leaves: &Leaves| tape.linear(&leaves[0], &module).unwrap();
        let (_, ours) = bench.evaluate(&function, true);
        let slopes = bench.differences(&function, |changed| {
            if changed != 3 {
                let kept = ((&magnitude * lengths()).unwrap() / &start).unwrap();
                bench.parameters.set(bench.ids[3], &kept).unwrap();
            }
        });
        compare("decomposed", &ours, &slopes);
    }
}

#[test]
fn attention() {
    let lengths = Lengths::new([3, 1, 4]);
    for is_causal in [false, true] {
        let how = Attention {
            is_causal,
            ..ATTENTION
        };
        Bench::new(&[&[8, 6], &[8, 6], &[8, 6]])
            .with_noise()
            .check("attention", |tape, leaves| {
                tape.attention(&leaves[0], &leaves[1], &leaves[2], &lengths, how)
                    .unwrap()
            });
        Bench::new(&[&[8, 18]])
            .with_noise()
            .check("packed attention", |tape, leaves| {
                let packed = tape.packed_attention(&leaves[0], &lengths, how).unwrap();
                let part = |start| tape.columns(&leaves[0], start, 6).unwrap();
                let apart = tape
                    .attention(&part(0), &part(6), &part(12), &lengths, how)
                    .unwrap();
                assert_eq!(flat(&packed.value), flat(&apart.value));
                packed
            });
    }
}

#[test]
fn disentangled_attention() {
    let lengths = Lengths::new([3, 1, 7]);
    // Distances up to 6 in buckets of 3 a side share rows, and span 2 clamps them.
    for (span, buckets) in [(6, None), (2, None), (3, Some((3, 6)))] {
        let distances = Distances::new(7, span, buckets);
        let count = distances.entries().len();
        for (has_key, has_query) in [(true, true), (true, false), (false, true)] {
            let bench = Bench::new(&[&[11, 6], &[11, 6], &[11, 6], &[count, 6], &[count, 6]]);
            bench
                .with_noise()
                .check("disentangled attention", |tape, leaves| {
                    let relative = Relative {
                        key: has_key.then_some(&leaves[3]),
                        query: has_query.then_some(&leaves[4]),
                        distances: &distances,
                    };
                    let contents = [&leaves[0], &leaves[1], &leaves[2]];
                    tape.disentangled_attention(contents, relative, &lengths, ATTENTION)
                        .unwrap()
                });
        }
    }
}

#[test]
fn tables() {
    // An update of an embedding of 6 entries: A (R × entries), Bᵀ (R × width).
    let bench = Bench::new(&[&[6, 4], &[2, 6], &[2, 4]]);
    let mut module = declared(|modules| modules.embedding("m", 6, 4));
    module.weight = bench.value(0);
    module.adapter = Some(Adapter::product(bench.ids[1], bench.ids[2], 0.6, 0.0));
    bench.check("embedding", |tape, _| {
        tape.embedding(&module, &[3, 0, 3, 5]).unwrap()
    });

    // Twice the same weight: as an embedding and as the head, which the update has no part in.
    let tied = |tape: &Tape<'_>, _: &Leaves| {
        let rows = tape.embedding(&module, &[3, 0, 3, 5]).unwrap();
        tape.tied(&rows, &module).unwrap()
    };
    bench.check("tied head", tied);

    let bench = Bench::new(&[&[1, 5, 3]]);
    let mut module = declared(|modules| modules.table("m", &[1, 5, 3]));
    module.weight = bench.value(0);
    let map = Tensor::from_vec(normal(17, "map", 20, 1.0), (4, 5), &Device::Cpu).unwrap();
    bench.check("mapped table", |tape, _| {
        tape.mapped(&map, &module).unwrap()
    });
}

#[test]
fn rows() {
    let lengths = Lengths::new([3, 1, 4]);
    let bench = Bench::new(&[&[8, 3], &[1, 3]]);
    bench.check("gather", |tape, leaves| {
        tape.gather(&leaves[0], &[7, 2, 7]).unwrap()
    });
    bench.check("columns", |tape, leaves| {
        tape.columns(&leaves[0], 1, 2).unwrap()
    });
    bench.check("prepend", |tape, leaves| {
        tape.prepend(&leaves[1], &leaves[0], &lengths).unwrap()
    });
    bench.check("neighbours", |tape, leaves| {
        tape.neighbours(&leaves[0], &lengths, 3).unwrap()
    });
}

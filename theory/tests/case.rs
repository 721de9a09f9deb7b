//! Case files against NumPy's opinion (`reference/cases.py`), and what malformed ones are told.

use std::path::Path;

use rankwise_theory::{Case, Error};
use serde_json::{Value, json};

/// NumPy spends the triplets in another order with explicit inverses: that costs digits, but never
/// more than these in the small, well conditioned cases of the fixture.
const RELATIVE: f64 = 1e-10;
const ABSOLUTE: f64 = 1e-12;

fn assert_agrees(id: &str, key: &str, ours: &Value, numpy: &Value) {
    match (ours, numpy) {
        (Value::Number(ours), Value::Number(numpy)) => {
            let (a, b) = (
                ours.as_f64().expect("a number"),
                numpy.as_f64().expect("a number"),
            );
            assert!(
                (a - b).abs() <= RELATIVE * b.abs() + ABSOLUTE,
                "{id}: {key}: {a} {b}"
            );
        }
        (Value::Array(ours), Value::Array(numpy)) => {
            assert_eq!(ours.len(), numpy.len(), "{id}: {key}");
            ours.iter()
                .zip(numpy)
                .for_each(|(a, b)| assert_agrees(id, key, a, b));
        }
        _ => assert_eq!(ours, numpy, "{id}: {key}"),
    }
}

#[test]
fn reports_agree_with_numpy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/cases.json");
    let text = std::fs::read_to_string(&path).expect("the fixture");
    let fixture: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let cases = Case::read(&path).expect("well formed");
    assert_eq!(cases.len(), 8);
    for (case, fixture) in cases.iter().zip(&fixture) {
        assert_eq!(case.unknown_keys, ["expected"]);
        let report = case.verify().expect("a report");
        let report = serde_json::to_value(report).expect("JSON");
        let expected = fixture["expected"].as_object().expect("an object");
        for (key, numpy) in expected {
            assert_agrees(&case.id, key, &report[key.as_str()], numpy);
        }
        let silent = expected.get("measured").is_none();
        assert_eq!(report.get("measured").is_none(), silent, "{}", case.id);
    }
}

#[test]
fn a_singular_factor_is_reported() {
    let mut case = small();
    case["L_frozen"] = json!(2);
    case["frozen_W"] = json!([[[1, 0], [0, 1]], [[1, 0], [0, 0]]]);
    case["partition"] = json!([[1, 2]]);
    case["R"] = json!([1, 1]);
    let report = &Case::parse(&case.to_string(), "case").expect("well formed")[0].verify();
    let report = serde_json::to_value(report.as_ref().expect("a report")).expect("JSON");
    assert_eq!(
        report["construction"],
        json!({"singular_layer": 2, "condition": null})
    );
    assert!(report.get("measured").is_none() && report.get("defect").is_none());
}

/// Σ alone: for one target layer the tail bound needs nothing else.
#[test]
fn without_points_nothing_is_measured() {
    let report = Case::parse(&small().to_string(), "case").expect("well formed")[0].verify();
    let report = serde_json::to_value(report.expect("a report")).expect("JSON");
    assert_agrees("small", "bound_tail", &report["bound_tail"], &json!(1.0));
    assert_agrees("small", "defect", &report["defect"], &json!([0.0]));
    assert!(report.get("measured").is_none() && report.get("violated").is_none());
}

/// W̄ = diag(2, 1), W = 0, R = 1, Σ = I.
fn small() -> Value {
    json!({
        "id": "small", "D": 2, "L_target": 1, "L_frozen": 1,
        "target_W": [[[2, 0], [0, 1]]], "target_b": [[0, 0]], "frozen_W": [[[0, 0], [0, 0]]],
        "partition": [[1]], "R": [1], "Sigma": [[1, 0], [0, 1]],
    })
}

#[test]
fn errors_name_the_place() {
    let told = |key: &str, value: Value| {
        let mut case = small();
        case[key] = value;
        Case::parse(&json!([small(), case]).to_string(), "f.json")
            .expect_err(key)
            .to_string()
    };
    assert_eq!(
        told("id", json!(7)),
        "f.json: [1].id: expected text, found 7"
    );
    assert_eq!(
        told("D", json!(0)),
        "f.json: [1].D: expected a whole number from 1, found 0"
    );
    assert_eq!(
        told("D", json!(3)),
        "f.json: [1].target_W[0]: expected a list of 3, found a list of 2"
    );
    assert_eq!(
        told("target_W", json!([[[2, 0], [0, 1, 5]]])),
        "f.json: [1].target_W[0][1]: expected a list of 2, found a list of 3"
    );
    assert_eq!(
        told("frozen_W", json!([[[0, 0], [0, "x"]]])),
        "f.json: [1].frozen_W[0][1][1]: expected a number, found text"
    );
    assert_eq!(
        told("R", json!([-1])),
        "f.json: [1].R[0]: expected a whole number from 0, found -1"
    );
    assert_eq!(
        told("R", Value::Null),
        "f.json: [1]: expected a key R, found none"
    );
    assert_eq!(
        told("partition", json!([[2]])),
        "f.json: [1].partition: order of layers: expected layer 1 next, as layers are consecutive from 1, \
         found 2"
    );
    assert_eq!(
        told("partition", json!([[1, 2]])),
        "f.json: [1].partition: layers of the partition: expected 1, found 2"
    );
    assert_eq!(
        told("Sigma", json!([[1, 2], [2, 1]])),
        "f.json: [1].Sigma: second moment: expected no negative eigenvalue, found eigenvalues that \
         add up to -1.0e0"
    );
    assert_eq!(
        told("x_points", json!([[1, 1]])),
        "f.json: [1].Sigma: second moment: expected that of x_points, found entries up to 1.0e0 away \
         from it"
    );
    assert_eq!(
        told("x_probs", json!([1])),
        "f.json: [1]: expected a key x_points, found none"
    );
    let alone = Case::parse("{}", "f.json").expect_err("empty").to_string();
    assert_eq!(alone, "f.json: expected a key D, found none");
    let list = Case::parse("7", "f.json")
        .expect_err("a number")
        .to_string();
    assert_eq!(list, "f.json: expected an object, found 7");
    assert!(matches!(
        Case::parse("{", "f.json"),
        Err(Error::Json { .. })
    ));
    assert!(matches!(
        Case::read(Path::new("/no/such.json")),
        Err(Error::File(_))
    ));
}

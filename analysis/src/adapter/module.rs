//! From the parts of one module to its recipe, or to the reason why it cannot be audited.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::base::{Base, BaseWeight, flat};
use super::config::AdapterConfig;
use super::key::{Format, Part};
use super::recipe::{Factor, Recipe, Side, Stored};
use crate::Epsilon;
use crate::audit::{Kind, Method};
use crate::container::TensorInfo;

/// One module's update: how it is made and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// As the base model names it.
    pub name: String,
    pub kind: Kind,
    pub method: Method,
    /// R, or what takes its place: the most directions that the form allows.
    pub rank: usize,
    /// What the product is multiplied with; `None` if it is not known.
    pub scale: Option<f64>,
    /// Of the coarsest of the tensors' types.
    pub epsilon: Epsilon,
    /// Rows and columns of ΔW as the base model keeps that weight.
    pub shape: (usize, usize),
    /// What deserves a word although it does not stand in the way.
    pub remark: Option<Remark>,
    pub(super) recipe: Recipe,
}

/// What an audit of a module could not take into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remark {
    /// DoRA without the base weight: the spectrum is that of s B A.
    Directional,
    /// VeRA without the base weight: all columns of the shared A were taken.
    InputsAssumed,
}

/// The names of a module's tensors.
pub(super) type Parts<'a> = BTreeMap<Part, &'a str>;

/// What all modules of a file share.
pub(super) struct Context<'a> {
    pub tensors: &'a BTreeMap<String, TensorInfo>,
    pub config: Option<&'a AdapterConfig>,
    pub base: Option<&'a Base>,
    pub format: Format,
    /// The numbers in `.alpha` and `.ranknum` tensors, by tensor.
    pub numbers: &'a BTreeMap<&'a str, f64>,
    /// VeRA's shared matrices: R, the columns of A, the rows of B.
    pub projections: Option<(usize, usize, usize)>,
}

impl Context<'_> {
    fn shape(&self, tensor: &str) -> &[usize] {
        self.tensors.get(tensor).map_or(&[], |info| &info.shape)
    }

    /// A tensor as a matrix: the first dimension by the product of the others.
    fn matrix(&self, tensor: &str) -> Stored {
        let (rows, columns) = flat(self.shape(tensor));
        Stored::rows_first(tensor, rows, columns)
    }

    fn weight(&self, module: &str) -> Option<BaseWeight> {
        let module = module.trim_end_matches(".base_layer");
        self.base?.weight(module)
    }

    fn needed_weight(&self, module: &str, what: &str) -> Result<BaseWeight, String> {
        match (self.base, self.weight(module)) {
            (_, Some(weight)) => Ok(weight),
            (None, None) => Err(format!("{what}: the update needs the base weight (--base)")),
            (Some(_), None) => Err(format!(
                "{what}: the update needs the base weight; expected {module}.weight in the base \
                 model, found none"
            )),
        }
    }
}

/// Everything about a module but its scale and type.
struct Draft {
    kind: Kind,
    method: Method,
    rank: usize,
    recipe: Recipe,
    is_transposed: bool,
    remark: Option<Remark>,
}

impl Module {
    /// The modules that the parts under one name make: several for the experts of one parameter.
    pub(super) fn all(
        name: &str,
        parts: &Parts<'_>,
        context: &Context<'_>,
    ) -> Result<Vec<Self>, String> {
        if let Some((_, tensor)) = parts
            .iter()
            .find(|(part, _)| matches!(part, Part::Variant(_)))
        {
            let what = tensor.rsplit(name).next().unwrap_or(tensor);
            let what = what.trim_matches('.');
            return Err(format!(
                "{what}: a part of a LoRA variant that is not audited"
            ));
        }
        if let Some(variant) = context.config.and_then(AdapterConfig::variant) {
            return Err(format!("{variant}: a LoRA variant that is not audited"));
        }
        let experts = super::experts::drafts(name, parts, context)?;
        if !experts.is_empty() {
            return experts
                .into_iter()
                .map(|(name, kind, rank, recipe, is_transposed)| {
                    let draft = Draft {
                        kind,
                        method: Method::Lora,
                        rank,
                        recipe,
                        is_transposed,
                        remark: None,
                    };
                    Self::finished(&name, draft, parts, context)
                })
                .collect();
        }
        let draft = draft(name, parts, context)?;
        Ok(vec![Self::finished(name, draft, parts, context)?])
    }

    /// R of the factors, where they have one that a configuration states.
    pub(super) fn factor_rank(&self) -> Option<usize> {
        let inner = match &self.recipe {
            Recipe::Directions { inside, .. } => inside,
            other => other,
        };
        match inner {
            Recipe::Product { .. } | Recipe::Groups { .. } => Some(self.rank),
            Recipe::Hadamard { first, .. } => Some(first.0.shape().1),
            _ => None,
        }
    }

    fn finished(
        name: &str,
        draft: Draft,
        parts: &Parts<'_>,
        context: &Context<'_>,
    ) -> Result<Self, String> {
        let Draft {
            kind,
            method,
            rank,
            recipe,
            is_transposed,
            remark,
        } = draft;
        let mut epsilon = None;
        for tensor in recipe.tensors() {
            let Some(info) = context.tensors.get(tensor) else {
                continue;
            };
            let own = Epsilon::of(info.dtype)
                .ok_or_else(|| format!("{tensor}: expected {READABLE}, found {:?}", info.dtype))?;
            epsilon = match epsilon {
                Some(coarser) if own.value() <= Epsilon::value(coarser) => Some(coarser),
                _ => Some(own),
            };
        }
        let (rows, columns) = match &recipe {
            Recipe::Tokens { weight, .. } => flat(&weight.shape),
            other => other.shape(),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            method,
            rank,
            scale: scale(name, rank, method, &recipe, parts, context)?,
            epsilon: epsilon.unwrap_or(Epsilon::F32),
            shape: if is_transposed {
                (columns, rows)
            } else {
                (rows, columns)
            },
            remark,
            recipe,
        })
    }
}

const READABLE: &str = "F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or I8";

fn draft(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Draft, String> {
    let mut draft = if let Some(draft) = product(name, parts, context)? {
        draft
    } else if let Some(draft) = hadamard(parts, context)? {
        draft
    } else if let Some(draft) = kronecker(name, parts, context)? {
        draft
    } else if let Some(draft) = vera(name, parts, context)? {
        draft
    } else if let Some(draft) = of_base(name, parts, context)? {
        draft
    } else if let Some(&tensor) = parts.get(&Part::Difference) {
        let shape = context.shape(tensor);
        if shape.len() < 2 {
            return Err(no_matrix(shape));
        }
        let recipe = Recipe::Difference(context.matrix(tensor));
        Draft {
            kind: kernel_kind(shape),
            method: Method::Full,
            rank: recipe.shape().0.min(recipe.shape().1),
            recipe,
            is_transposed: false,
            remark: None,
        }
    } else {
        return Err(incomplete(parts, context));
    };
    check_window(&draft.recipe)?;
    let is_dora = context.config.and_then(|c| c.use_dora) == Some(true)
        || context.config.and_then(|c| c.fine_tune_type.as_deref()) == Some("dora");
    match parts.get(&Part::Magnitude) {
        Some(&magnitude) => draft = dora(name, draft, magnitude, context)?,
        None if is_dora => {
            return Err("DoRA: expected a vector of magnitudes, found none".to_owned());
        }
        None => {}
    }
    Ok(draft)
}

/// Why the parts under a name make no update.
fn incomplete(parts: &Parts<'_>, context: &Context<'_>) -> String {
    let has = |part| parts.contains_key(&part);
    if has(Part::A) || has(Part::BareA) || has(Part::EmbeddingA) || has(Part::Down) {
        return "factor A without factor B".to_owned();
    }
    if has(Part::B) || has(Part::BareB) || has(Part::EmbeddingB) || has(Part::Up) {
        return "factor B without factor A".to_owned();
    }
    if let Some(tensor) = parts.get(&Part::Vector) {
        return no_matrix(context.shape(tensor));
    }
    let names: Vec<&str> = parts.values().copied().collect();
    format!(
        "expected the parts of an update, found only {}",
        names.join(", ")
    )
}

fn no_matrix(shape: &[usize]) -> String {
    format!(
        "a difference with {} dimension{}: a vector, which has no rank",
        shape.len(),
        if shape.len() == 1 { "" } else { "s" }
    )
}

/// B A in its several layouts: PEFT, kohya, diffusers, mlx-lm, loralib; with AdaLoRA's diagonal and a
/// Tucker core between.
fn product(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Draft>, String> {
    let pair = |a, b| Some((*parts.get(&a)?, *parts.get(&b)?));
    let plain = |kind, rank, recipe| Draft {
        kind,
        method: Method::Lora,
        rank,
        recipe,
        is_transposed: false,
        remark: None,
    };
    if let Some((a, b)) = pair(Part::EmbeddingA, Part::EmbeddingB) {
        let (a, b) = (context.matrix(a), context.matrix(b));
        agree(&a, &b, context)?;
        return Ok(Some(Draft {
            is_transposed: true,
            ..plain(Kind::Embedding, a.rows, stored_product(b, a))
        }));
    }
    if let Some((a, b)) = pair(Part::MlxA, Part::MlxB) {
        let both = (context.shape(a), context.shape(b));
        if !matches!(both, ([_, r], [s, _]) if r == s) {
            let (a, b) = both;
            return Err(format!(
                "expected factors inputs x R and R x outputs, found {a:?} and {b:?}"
            ));
        }
        let (a, b) = (
            context.matrix(a).transposed(),
            context.matrix(b).transposed(),
        );
        return Ok(Some(plain(Kind::Linear, a.rows, stored_product(b, a))));
    }
    let (a, b, method) = if let Some((a, b)) = pair(Part::A, Part::B) {
        (a, b, Method::Lora)
    } else if let Some((a, b)) = pair(Part::Down, Part::Up) {
        (a, b, Method::Lora)
    } else if let Some((a, b)) = pair(Part::BareA, Part::BareB) {
        let is_adaptive = parts.contains_key(&Part::E);
        (
            a,
            b,
            if is_adaptive {
                Method::Adalora
            } else {
                Method::Lora
            },
        )
    } else {
        return Ok(None);
    };
    let (shape, kernel) = (context.shape(b), context.shape(a));
    let (a, b) = (context.matrix(a), context.matrix(b));
    if let Some(&core) = parts.get(&Part::Mid) {
        let core_shape = context.shape(core);
        let recipe = tucker(context.matrix(core), b, a);
        return match recipe {
            Some((recipe, rank)) => Ok(Some(plain(kernel_kind(core_shape), rank, recipe))),
            None => Err(format!(
                "expected factors R x in, R x R x window and out x R, found {kernel:?}, \
                 {core_shape:?} and {shape:?}"
            )),
        };
    }
    let is_transposed = transposed(name, &a, &b, context);
    let kind = match kernel.len() {
        2 if is_transposed => Kind::Conv1d,
        _ => kernel_kind(kernel),
    };
    if let Some(&diagonal) = parts.get(&Part::E) {
        agree(&a, &b, context)?;
        let length: usize = context.shape(diagonal).iter().product();
        if length != a.rows {
            return Err(format!(
                "expected {} numbers in lora_E, found {length}",
                a.rows
            ));
        }
        let rank = a.rows;
        let recipe = Recipe::Product {
            b: Factor::Stored(b),
            a: Factor::ScaledRows {
                matrix: a,
                scales: diagonal.to_owned(),
            },
        };
        return Ok(Some(Draft {
            method,
            is_transposed,
            ..plain(kind, rank, recipe)
        }));
    }
    let window: usize = shape.iter().skip(2).product();
    let rank = b.columns.checked_div(window).unwrap_or(0);
    let is_uneven = rank != a.rows && rank > 0 && a.rows.is_multiple_of(rank) && window == 1;
    if is_uneven && kernel.len() > 2 && b.rows.is_multiple_of(a.rows / rank) {
        let (groups, rank) = (a.rows / rank, a.rows);
        return Ok(Some(plain(kind, rank, Recipe::Groups { b, a, groups })));
    }
    if is_uneven && parts.contains_key(&Part::BareA) && b.rows.is_multiple_of(a.rows / rank) {
        let (count, rank) = (a.rows / rank, a.rows);
        return Ok(Some(plain(kind, rank, Recipe::Stacked { b, a, count })));
    }
    agree(&a, &b, context)?;
    let rank = a.rows;
    Ok(Some(Draft {
        is_transposed,
        ..plain(kind, rank, stored_product(b, a))
    }))
}

fn stored_product(b: Stored, a: Stored) -> Recipe {
    Recipe::Product {
        b: Factor::Stored(b),
        a: Factor::Stored(a),
    }
}

/// Checks that A is R × in [× window] and B out × R [× 1 × 1].
fn agree(a: &Stored, b: &Stored, context: &Context<'_>) -> Result<(), String> {
    let (first, second) = (context.shape(&a.tensor), context.shape(&b.tensor));
    let is_plain = |shape: &[usize]| shape.len() >= 2;
    let is_point = second.iter().skip(2).all(|&length| length == 1);
    if is_plain(first) && is_plain(second) && is_point && first[0] == second[1] {
        return Ok(());
    }
    Err(format!(
        "expected factors R x in and out x R, or R x in x h x w and out x R x 1 x 1, found \
         {first:?} and {second:?}"
    ))
}

/// Whether the base keeps this layer's weight as inputs × outputs: by the base itself if its sides
/// tell, else by the configuration.
fn transposed(name: &str, a: &Stored, b: &Stored, context: &Context<'_>) -> bool {
    let by_config = context.config.and_then(|c| c.fan_in_fan_out) == Some(true);
    match context.weight(name).map(|weight| flat(&weight.shape)) {
        Some(shape) if a.columns != b.rows && shape == (a.columns, b.rows) => true,
        Some(shape) if a.columns != b.rows && shape == (b.rows, a.columns) => false,
        _ => by_config,
    }
}

/// core p × (q, k), B out × p, D q × in.
fn tucker(core: Stored, b: Stored, down: Stored) -> Option<(Recipe, usize)> {
    let fits = core.rows == b.columns
        && down.rows > 0
        && core.columns.is_multiple_of(down.rows)
        && core.columns > 0;
    let rank = b.columns.min(down.rows);
    let recipe = Recipe::Product {
        b: Factor::Stored(b),
        a: Factor::Tucker { core, down },
    };
    fits.then_some((recipe, rank))
}

fn kernel_kind(shape: &[usize]) -> Kind {
    match shape.len() {
        3 => Kind::Conv1,
        4 => Kind::Conv2d,
        5.. => Kind::Conv3d,
        _ => Kind::Linear,
    }
}

/// Kernels that a product's factors could not have come from.
fn check_window(recipe: &Recipe) -> Result<(), String> {
    let sides = |b: &Factor, a: &Factor| (b.shape(), a.shape());
    let check = |((_, r), (s, _)): ((usize, usize), (usize, usize))| {
        if r == s {
            Ok(())
        } else {
            Err(format!(
                "expected one rank, found {r} in the left factor and {s} in the right"
            ))
        }
    };
    match recipe {
        Recipe::Product { b, a } => check(sides(b, a)),
        Recipe::Hadamard { first, second } => {
            check(sides(&first.0, &first.1))?;
            check(sides(&second.0, &second.1))
        }
        Recipe::Kronecker { left, right } => {
            for side in [left, right] {
                if let Side::Product(b, a) = side {
                    check(sides(b, a))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// LoHa.
fn hadamard(parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Draft>, String> {
    let names = [Part::HadaW1A, Part::HadaW1B, Part::HadaW2A, Part::HadaW2B];
    let found = names.map(|part| parts.get(&part).copied());
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [Some(w1a), Some(w1b), Some(w2a), Some(w2b)] = found else {
        return Err("expected hada_w1_a, _w1_b, _w2_a and _w2_b, found only some".to_owned());
    };
    let side = |core: Part, a: &str, b: &str| -> Result<(Factor, Factor, usize), String> {
        let (left, right) = (context.matrix(a), context.matrix(b));
        match parts.get(&core) {
            // With a core the left factor is kept as R × out.
            Some(&core) => match tucker(context.matrix(core), left.transposed(), right) {
                Some((Recipe::Product { b, a }, rank)) => Ok((b, a, rank)),
                _ => Err(format!(
                    "{core}: expected R x R x window beside R x out and R x in"
                )),
            },
            None => {
                let rank = left.columns;
                Ok((Factor::Stored(left), Factor::Stored(right), rank))
            }
        }
    };
    let (b1, a1, r1) = side(Part::HadaT1, w1a, w1b)?;
    let (b2, a2, r2) = side(Part::HadaT2, w2a, w2b)?;
    if (b1.shape().0, a1.shape().1) != (b2.shape().0, a2.shape().1) {
        return Err("expected two products of one shape".to_owned());
    }
    let kind = match parts.get(&Part::HadaT1) {
        Some(core) => kernel_kind(context.shape(core)),
        None => Kind::Linear,
    };
    let recipe = Recipe::Hadamard {
        first: (b1, a1),
        second: (b2, a2),
    };
    Ok(Some(Draft {
        kind,
        method: Method::Loha,
        rank: r1.saturating_mul(r2),
        recipe,
        is_transposed: false,
        remark: None,
    }))
}

/// LoKr.
fn kronecker(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Draft>, String> {
    let get = |part| parts.get(&part).copied();
    let side = |whole, a, b, core| -> Result<Option<Side>, String> {
        let matrix = |tensor| context.matrix(tensor);
        match (get(whole), get(a), get(b)) {
            (Some(whole), _, _) => Ok(Some(Side::Whole(matrix(whole)))),
            (None, Some(a), Some(b)) => match core {
                Some(core) => match tucker(matrix(core), matrix(a).transposed(), matrix(b)) {
                    Some((Recipe::Product { b, a }, _)) => Ok(Some(Side::Product(b, a))),
                    _ => Err(format!(
                        "{core}: expected R x R x window beside R x out and R x in"
                    )),
                },
                None => Ok(Some(Side::Product(
                    Factor::Stored(matrix(a)),
                    Factor::Stored(matrix(b)),
                ))),
            },
            (None, None, None) => Ok(None),
            _ => Err(
                "expected both factors of a side of the Kronecker product, found one".to_owned(),
            ),
        }
    };
    let left = side(Part::LokrW1, Part::LokrW1A, Part::LokrW1B, None)?;
    let right = side(
        Part::LokrW2,
        Part::LokrW2A,
        Part::LokrW2B,
        get(Part::LokrT2),
    )?;
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (None, None) => return Ok(None),
        _ => return Err("expected lokr_w1 and lokr_w2, found only one".to_owned()),
    };
    let ((m, n), (p, q)) = (left.shape(), right.shape());
    if m.checked_mul(p).is_none() || n.checked_mul(q).is_none() {
        return Err(format!(
            "a Kronecker product of {m} x {n} and {p} x {q} is too large"
        ));
    }
    let kernel = get(Part::LokrT2).or(get(Part::LokrW2));
    let kind = match (kernel, context.weight(name)) {
        (_, Some(weight)) => kernel_kind(&weight.shape),
        (Some(kernel), None) => kernel_kind(context.shape(kernel)),
        (None, None) => Kind::Linear,
    };
    Ok(Some(Draft {
        kind,
        method: Method::Lokr,
        rank: left.budget().saturating_mul(right.budget()),
        recipe: Recipe::Kronecker { left, right },
        is_transposed: false,
        remark: None,
    }))
}

fn vera(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Draft>, String> {
    let (d, b) = match (parts.get(&Part::VeraD), parts.get(&Part::VeraB)) {
        (Some(&d), Some(&b)) => (d, b),
        (None, None) => return Ok(None),
        _ => return Err("expected vera_lambda_d and vera_lambda_b, found only one".to_owned()),
    };
    let Some((rank, columns, rows)) = context.projections else {
        return Err(
            "VeRA: its projections are not in the file; they follow from the base model's shapes \
             (--base) and projection_prng_key"
                .to_owned(),
        );
    };
    let length = |tensor| context.shape(tensor).iter().product::<usize>();
    let weight = context.weight(name);
    let outputs = length(b);
    let is_transposed = context.config.and_then(|c| c.fan_in_fan_out) == Some(true);
    let inputs = match &weight {
        Some(weight) => {
            let (m, n) = flat(&weight.shape);
            if is_transposed { m } else { n }
        }
        None => columns,
    };
    if length(d) != rank || outputs > rows || inputs > columns {
        return Err(format!(
            "expected vectors of {rank} and at most {rows} numbers and at most {columns} inputs, \
             found {}, {outputs} and {inputs}",
            length(d)
        ));
    }
    Ok(Some(Draft {
        kind: if is_transposed {
            Kind::Conv1d
        } else {
            Kind::Linear
        },
        method: Method::Vera,
        rank,
        recipe: Recipe::Vera {
            d: d.to_owned(),
            b: b.to_owned(),
            rank,
            inputs,
            outputs,
        },
        is_transposed,
        remark: weight.is_none().then_some(Remark::InputsAssumed),
    }))
}

/// What only the base weight tells: (IA)³ and new rows of an embedding.
fn of_base(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Draft>, String> {
    let config = context.config;
    if let Some(&vector) = parts.get(&Part::Ia3) {
        let mut weight = context.needed_weight(name, "IA3")?;
        weight.is_transposed = config.and_then(|c| c.fan_in_fan_out) == Some(true);
        let shape = context.shape(vector);
        let length: usize = shape.iter().product();
        let (m, n) = weight.matrix();
        let inputs = match weight.shape[..] {
            [_, inputs, _, ..] => inputs,
            _ => n,
        };
        let by_shape = !matches!(shape, [1, ..]);
        let of_rows = match config.and_then(|c| c.is_feedforward(name)) {
            Some(feedforward) => !feedforward,
            None => by_shape,
        };
        let expected = if of_rows { m } else { inputs };
        if length != expected || (!of_rows && inputs != n) {
            return Err(format!(
                "IA3: expected a vector of {expected} numbers, found {shape:?}"
            ));
        }
        let kind = if weight.is_transposed {
            Kind::Conv1d
        } else {
            kernel_kind(&weight.shape)
        };
        return Ok(Some(Draft {
            kind,
            method: Method::Ia3,
            rank: m.min(n),
            is_transposed: weight.is_transposed,
            recipe: Recipe::Rescaled {
                vector: vector.to_owned(),
                of_rows,
                weight,
            },
            remark: None,
        }));
    }
    let Some(&tensor) = parts.get(&Part::Tokens) else {
        return Ok(None);
    };
    let weight = context.needed_weight(name, "trainable tokens")?;
    let tuned = context.matrix(tensor);
    let (m, n) = weight.matrix();
    let Some(rows) = config.and_then(|c| c.tokens(name)) else {
        return Err(
            "trainable tokens: expected their indices in adapter_config.json, found none"
                .to_owned(),
        );
    };
    let distinct: std::collections::BTreeSet<_> = rows.iter().collect();
    let is_inside = rows.iter().all(|&row| row < m);
    if rows.len() != tuned.rows || distinct.len() != rows.len() || !is_inside || tuned.columns != n
    {
        return Err(format!(
            "trainable tokens: expected {} different rows below {m} of length {n}, found {} x {}",
            rows.len(),
            tuned.rows,
            tuned.columns
        ));
    }
    Ok(Some(Draft {
        kind: Kind::Token,
        method: Method::Tokens,
        rank: tuned.rows.min(n),
        recipe: Recipe::Tokens {
            tuned,
            rows,
            weight,
        },
        is_transposed: false,
        remark: None,
    }))
}

/// Wraps an update into DoRA's change of direction, if the base weight is at hand.
fn dora(
    name: &str,
    inside: Draft,
    magnitude: &str,
    context: &Context<'_>,
) -> Result<Draft, String> {
    let Some(mut weight) = context.weight(name) else {
        if context.base.is_some() {
            context.needed_weight(name, "DoRA")?;
        }
        return Ok(Draft {
            method: Method::Dora,
            remark: Some(Remark::Directional),
            ..inside
        });
    };
    weight.is_transposed = inside.is_transposed;
    let shape = context.shape(magnitude);
    let (m, n) = inside.recipe.shape();
    if weight.matrix() != (m, n) {
        return Err(format!(
            "DoRA: expected a base weight of {m} x {n}, found {:?}",
            weight.shape
        ));
    }
    let length: usize = shape.iter().product();
    // PEFT's is a vector of the outputs; LyCORIS keeps it out × 1 or 1 × in.
    let of_rows = match shape {
        [1, rest @ ..] if context.format != Format::Peft => rest.first() != Some(&n) || n == 1,
        _ => true,
    };
    if length != if of_rows { m } else { n } {
        return Err(format!(
            "DoRA: expected a magnitude for every one of {m} rows, found {shape:?}"
        ));
    }
    Ok(Draft {
        method: Method::Dora,
        recipe: Recipe::Directions {
            inside: Box::new(inside.recipe),
            magnitude: magnitude.to_owned(),
            of_rows,
            weight,
        },
        ..inside
    })
}

/// A tensor that was trained as a whole (modules_to_save), beside the base's.
pub(super) fn whole(name: &str, tensor: &str, context: &Context<'_>) -> Result<Module, String> {
    let what = "trained as a whole (modules_to_save)";
    let shape = context.shape(tensor);
    if shape.len() < 2 {
        return Err(format!("{what}: a vector, which has no rank; {shape:?}"));
    }
    let weight = context.needed_weight(name, what)?;
    if weight.shape != shape {
        return Err(format!(
            "{what}: expected the base's shape {:?}, found {shape:?}",
            weight.shape
        ));
    }
    let tuned = context.matrix(tensor);
    let draft = Draft {
        kind: kernel_kind(shape),
        method: Method::Full,
        rank: tuned.rows.min(tuned.columns),
        recipe: Recipe::Whole { tuned, weight },
        is_transposed: false,
        remark: None,
    };
    Module::finished(name, draft, &Parts::new(), context)
}

/// What the product is multiplied with, if that is known.
fn scale(
    name: &str,
    rank: usize,
    method: Method,
    recipe: &Recipe,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<f64>, String> {
    let is_fixed = matches!(
        method,
        Method::Full | Method::Ia3 | Method::Tokens | Method::Vera
    );
    if is_fixed {
        return Ok(Some(1.0));
    }
    let inner = match recipe {
        Recipe::Directions { inside, .. } => inside,
        other => other,
    };
    let general = context.config.and_then(|c| c.rank(name));
    // R as the formats mean it: not the squared one of LoHa, nor LoKr's bound.
    let divisor = match inner {
        Recipe::Hadamard { first, .. } => first.0.shape().1,
        Recipe::Stacked { b, .. } => b.columns,
        Recipe::Kronecker { left, right } => match (left, right) {
            (_, Side::Product(b, _)) | (Side::Product(b, _), _) => b.shape().1,
            // LyCORIS sets α to R where both matrices are whole.
            _ if context.format == Format::Lycoris => return Ok(Some(1.0)),
            _ => general.unwrap_or(0),
        },
        Recipe::Product { .. } | Recipe::Groups { .. } => rank,
        _ => rank,
    };
    let by_rank = |alpha: f64| {
        let divisor = match context.config.and_then(|c| c.use_rslora) {
            Some(true) => (divisor as f64).sqrt(),
            _ => divisor as f64,
        };
        (divisor > 0.0).then_some(alpha / divisor)
    };
    if let Some(alpha) = parts.get(&Part::Alpha) {
        return match context.numbers.get(alpha) {
            Some(&alpha) => Ok(by_rank(alpha)),
            None => Err(format!("{alpha}: expected a single number")),
        };
    }
    if method == Method::Adalora {
        return Ok(adalora_scale(rank, parts, context));
    }
    match context.format {
        Format::Mlx => Ok(context
            .config
            .and_then(|c| c.lora_parameters.as_ref())
            .and_then(|parameters| parameters.scale)),
        // Their loaders take α = R where the file says nothing.
        Format::Kohya | Format::Lycoris | Format::Diffusers => Ok(Some(1.0)),
        Format::Peft | Format::Loralib | Format::Cloneofsimo => match context.config {
            Some(config) => Ok(config.alpha(name)?.and_then(by_rank)),
            None => Ok(None),
        },
    }
}

/// AdaLoRA goes on dividing by the R that it began with, whatever was pruned.
fn adalora_scale(rank: usize, parts: &Parts<'_>, context: &Context<'_>) -> Option<f64> {
    let config = context.config?;
    let stored = parts
        .get(&Part::RankNumber)
        .and_then(|name| context.numbers.get(name));
    let initial = stored.copied().or(config.init_r).unwrap_or(rank as f64);
    let numerator = match config.lora_alpha {
        Some(alpha) if alpha > 0.0 => alpha,
        _ => initial,
    };
    Some(numerator / (initial + 1e-5))
}

impl Epsilon {
    /// Of a tensor's type, if such tensors can be read as numbers.
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F8_E4M3 => Some(Self::F8E4m3),
            Dtype::F8_E5M2 => Some(Self::F8E5m2),
            // Whole numbers are exact; what is computed from them is judged as float32.
            Dtype::I8 => Some(Self::F32),
            _ => None,
        }
    }
}

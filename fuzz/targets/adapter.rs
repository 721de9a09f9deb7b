#![no_main]
//! The audit of a folder that is sound down to the last byte of its containers: the input only chooses
//! layouts, shapes, types, numbers and settings. So the mutations reach what is behind the readers:
//! how an update is put together, with and without the base model and the adapter before training.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::{AuditOptions, audit};
use rankwise_fuzz::within_bounds;
use tempfile::TempDir;

/// A part's name after its module's, and its usual dimensions: letters of [`Sizes`], or digits.
type Part = (&'static str, &'static str);

const LAYOUTS: &[&[Part]] = &[
    &[(".lora_A.weight", "rn"), (".lora_B.weight", "mr"), (".lora_B.bias", "m")],
    &[(".lora_A.weight", "rnkk"), (".lora_B.weight", "mr11")],
    &[(".lora_A.weight", "rnk"), (".lora_B.weight", "mr1"), (".lora_magnitude_vector", "1m1")],
    &[(".lora_A.weight", "rn"), (".lora_B.weight", "mr"), (".lora_magnitude_vector.weight", "m")],
    // Experts, and the groups of a convolution.
    &[(".lora_A.weight", "en"), (".lora_B.weight", "me")],
    &[(".lora_A.weight", "e1kk"), (".lora_B.weight", "mr11")],
    &[(".lora_embedding_A", "rn"), (".lora_embedding_B", "mr")],
    &[(".lora_A", "rn"), (".lora_E", "r1"), (".lora_B", "mr"), (".ranknum", "")],
    // Several outputs of one layer.
    &[(".lora_A", "en"), (".lora_B", "mr")],
    &[(".lora_down.weight", "rn"), (".lora_up.weight", "mr"), (".alpha", ""), (".dora_scale", "m1")],
    &[(".lora_down.weight", "rnkk"), (".lora_up.weight", "mr11"), (".alpha", "1"), (".dora_scale", "1n")],
    &[(".lora_down.weight", "rn11"), (".lora_mid.weight", "rrkk"), (".lora_up.weight", "mr11")],
    &[(".hada_w1_a", "mr"), (".hada_w1_b", "rn"), (".hada_w2_a", "mr"), (".hada_w2_b", "rn"), (".alpha", "")],
    &[
        (".hada_w1_a", "rm"), (".hada_w1_b", "rn"), (".hada_w2_a", "rm"), (".hada_w2_b", "rn"),
        (".hada_t1", "rrkk"), (".hada_t2", "rrkk"),
    ],
    &[(".lokr_w1", "pq"), (".lokr_w2", "mn"), (".alpha", "")],
    &[(".lokr_w1", "pq"), (".lokr_w2_a", "mr"), (".lokr_w2_b", "rn"), (".dora_scale", "m1")],
    &[(".lokr_w1_a", "pr"), (".lokr_w1_b", "rq"), (".lokr_w2", "mnkk")],
    &[(".lokr_w1_a", "pr"), (".lokr_w1_b", "rq"), (".lokr_w2_a", "rm"), (".lokr_w2_b", "rn"), (".lokr_t2", "rrkk")],
    &[(".vera_lambda_d", "r"), (".vera_lambda_b", "m")],
    &[(".ia3_l", "m1")],
    &[(".ia3_l", "1n")],
    &[(".weight", "m"), (".on_input", "")],
    &[(".a1.weight", "nr"), (".a2.weight", "rn"), (".b1.weight", "mr"), (".b2.weight", "rn"), (".alpha", "")],
    &[(".diff", "mn"), (".diff_b", "m")],
    &[(".diff", "mnkk"), (".w_norm", "m"), (".b_norm", "m")],
    &[(".lora_a", "nr"), (".lora_b", "rm"), (".m", "m")],
    &[(".lora_a", "xrn"), (".lora_b", "xmr")],
    &[(".token_adapter.trainable_tokens_delta", "rn")],
    &[(".lora.down.weight", "rn"), (".lora.up.weight", "mr")],
    &[(".processor.to_q_lora.down.weight", "rn"), (".processor.to_q_lora.up.weight", "mr")],
    &[(".down", "rn"), (".up", "mr")],
    &[(".weight", "mn"), (".bias", "m")],
    &[(".lora_diag", "r"), (".oft_diag", "rnn"), (".lora_A.0", "1n"), (".vblora_logits", "rm")],
];

const MODULES: [&str; 8] = [
    "base_model.model.layers.0.q_proj",
    "base_model.model.layers.1.q_proj",
    "base_model.model.layers.0.mlp.experts",
    "base_model.model.layers.0.mlp.experts.base_layer",
    "base_model.model.embed_tokens",
    "lora_unet_layers_0_q_proj",
    "unet.mid.self_attn",
    "lora_te_a",
];

const TYPES: [(&str, usize); 10] = [
    ("F32", 4), ("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I8", 1), ("F8_E4M3", 1), ("F8_E5M2", 1),
    ("I64", 8), ("BOOL", 1),
];

/// All numbers of a file together take at most so many bytes: what the rule for memory catches is a
/// product's size, and a product of small numbers is found sooner.
const BUDGET: usize = 4096;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The input, byte by byte; zeros after its end.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        match *self.0 {
            [first, ref rest @ ..] => {
                self.0 = rest;
                first
            }
            [] => 0,
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn size(&mut self) -> usize {
        const LARGE: [usize; 8] = [0, 64, 300, 1_000, 4_000, 1 << 20, 1 << 33, 1 << 62];
        match self.byte() {
            small @ 0..=231 => usize::from(small % 12) + 1,
            other => LARGE[usize::from(other) % LARGE.len()],
        }
    }
}

/// What the letters of a part's dimensions stand for.
#[derive(Clone, Copy)]
struct Sizes {
    rank: usize,
    rows: usize,
    columns: usize,
    window: usize,
    experts: usize,
    left: (usize, usize),
}

impl Sizes {
    fn chosen(choices: &mut Choices<'_>) -> Self {
        Self {
            rank: choices.size(),
            rows: choices.size(),
            columns: choices.size(),
            window: choices.one(&[1, 2, 3, 9, 50]),
            experts: choices.size(),
            left: (choices.size(), choices.size()),
        }
    }

    /// Whether no update, a Kronecker product with a window included, has many numbers.
    fn are_few(&self) -> bool {
        let sides = [self.rows, self.columns, self.left.0, self.left.1, self.window, self.window];
        let area = sides.into_iter().fold(1, |area: usize, side| area.saturating_mul(side.max(1)));
        area <= 1 << 15
    }

    fn of(&self, letter: char) -> usize {
        match letter {
            'r' => self.rank,
            'm' => self.rows,
            'n' => self.columns,
            'k' => self.window,
            'x' => self.experts,
            'e' => self.experts.saturating_mul(self.rank),
            'p' => self.left.0,
            'q' => self.left.1,
            digit => digit.to_digit(10).unwrap_or(1) as usize,
        }
    }
}

/// A safetensors file that is being made.
#[derive(Default)]
struct File {
    header: Vec<String>,
    names: Vec<String>,
    data: Vec<u8>,
}

impl File {
    fn add(&mut self, name: String, shape: &[usize], choices: &mut Choices<'_>) {
        let (kind, width) = choices.one(&TYPES);
        let none = shape.contains(&0);
        let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d.max(1)));
        let Some(count) = count.map(|count| if none { 0 } else { count }) else {
            return;
        };
        let room = BUDGET.saturating_sub(self.data.len());
        let Some(size) = count.checked_mul(width).filter(|&size| size <= room) else {
            return;
        };
        if self.names.contains(&name) {
            return;
        }
        let begin = self.data.len();
        let seed = choices.byte();
        self.data.extend((0..size).map(|i| match seed {
            0 => 0,
            1 => 0xff,
            // Bytes that no float of any type takes for an infinity.
            2..=200 => (i as u8).wrapping_mul(37).wrapping_add(seed) % 64,
            _ => choices.byte(),
        }));
        self.header.push(format!(
            "\"{name}\":{{\"dtype\":\"{kind}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{}]}}",
            self.data.len()
        ));
        self.names.push(name);
    }

    fn bytes(&self, metadata: &str) -> Vec<u8> {
        let mut header = self.header.join(",");
        if !metadata.is_empty() {
            let more = if header.is_empty() { "" } else { "," };
            header = format!("\"__metadata__\":{{{metadata}}}{more}{header}");
        }
        let header = format!("{{{header}}}");
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &self.data].concat()
    }
}

fn shape(letters: &str, sizes: &Sizes, choices: &mut Choices<'_>) -> Vec<usize> {
    let mut shape: Vec<usize> = letters.chars().map(|letter| sizes.of(letter)).collect();
    match choices.byte() {
        250 => shape.push(choices.size()),
        251 => drop(shape.pop()),
        252 => shape.reverse(),
        253.. if !shape.is_empty() => {
            let place = usize::from(choices.byte()) % shape.len();
            shape[place] = choices.size();
        }
        _ => {}
    }
    shape
}

/// The adapter's tensors.
fn adapter(sizes: &[Sizes; 2], choices: &mut Choices<'_>) -> File {
    let mut file = File::default();
    for _ in 0..=choices.byte() % 4 {
        let module = choices.one(&MODULES);
        let sizes = &sizes[usize::from(choices.byte() % 2)];
        let layout = choices.one(LAYOUTS);
        for &(part, letters) in layout {
            if choices.byte() > 240 {
                continue;
            }
            let shape = shape(letters, sizes, choices);
            file.add(format!("{module}{part}"), &shape, choices);
        }
        match choices.byte() {
            // A part of another layout beside them.
            200..=220 => {
                let layout = choices.one(LAYOUTS);
                let (part, letters) = choices.one(layout);
                let shape = shape(letters, sizes, choices);
                file.add(format!("{module}{part}"), &shape, choices);
            }
            221..=235 => {
                let (a, b) = (shape("rn", sizes, choices), shape("mr", sizes, choices));
                file.add("base_model.vera_A".to_owned(), &a, choices);
                file.add("base_model.vera_B".to_owned(), &b, choices);
            }
            236..=240 => file.add("lora_controlnet".to_owned(), &[0], choices),
            241..=245 => file.add("unet:0:up".to_owned(), &[sizes.rows, sizes.rank], choices),
            _ => {}
        }
    }
    file
}

/// Weights of the same modules, often of the shapes that the adapter expects.
fn base(sizes: &[Sizes; 2], choices: &mut Choices<'_>) -> File {
    let mut file = File::default();
    for module in MODULES {
        let sizes = &sizes[usize::from(choices.byte() % 2)];
        let letters = choices.one(&["mn", "mn", "nm", "mnkk", "mnk", "m1kk", "xmn", "xnm", "m", ""]);
        let path = module.trim_start_matches("base_model.model.");
        let path = path.trim_end_matches(".base_layer");
        let path = choices.one(&[path, path, path, "mid.attn.to_q", "layers.0.q_proj"]);
        let ending = choices.one(&[".weight", ".weight", ".gate_up_proj", ".down_proj", ""]);
        let shape = shape(letters, sizes, choices);
        file.add(format!("{path}{ending}"), &shape, choices);
        if choices.byte() > 230 {
            // What a Kronecker product changes.
            let (m, n) = (
                sizes.rows.saturating_mul(sizes.left.0),
                sizes.columns.saturating_mul(sizes.left.1),
            );
            file.add(format!("{path}.weight"), &[m, n], choices);
        }
    }
    file
}

fn config(sizes: &Sizes, choices: &mut Choices<'_>) -> Option<String> {
    let kind = choices.one(&[
        "LORA", "LORA", "ADALORA", "LOHA", "LOKR", "VERA", "IA3", "TRAINABLE_TOKENS", "BOFT", "", "none",
    ]);
    if kind == "none" {
        return None;
    }
    let mut fields = vec![format!("\"r\":{}", sizes.rank)];
    if !kind.is_empty() {
        fields.push(format!("\"peft_type\":\"{kind}\""));
    }
    let tokens: Vec<usize> = (0..sizes.rank.min(64)).collect();
    let more = [
        "\"lora_alpha\":16".to_owned(),
        "\"alpha\":1e300".to_owned(),
        format!("\"rank_pattern\":{{\"q_proj\":{},\"(a|b)+.*\":3}}", sizes.experts),
        "\"rank_pattern\":{\"layers.0.q_proj.lora_E\":[true,false,true]}".to_owned(),
        "\"alpha_pattern\":{\"layers.0\":-3,\"^.*q_proj\":0.5}".to_owned(),
        "\"alpha_pattern\":{\"(?=q)\":2}".to_owned(),
        "\"target_parameters\":[\"mlp.experts.gate_up_proj\",\"mlp.experts.down_proj\"]".to_owned(),
        "\"target_parameters\":[\"q_proj.weight\"]".to_owned(),
        "\"fan_in_fan_out\":true".to_owned(),
        "\"use_rslora\":true".to_owned(),
        "\"use_dora\":true".to_owned(),
        "\"feedforward_modules\":[\"q_proj\"]".to_owned(),
        "\"feedforward_modules\":\".*0.*\"".to_owned(),
        format!("\"trainable_token_indices\":{tokens:?}"),
        format!("\"token_indices\":{{\"embed_tokens\":{tokens:?}}}"),
        "\"projection_prng_key\":18446744073709551615".to_owned(),
        "\"init_lora_weights\":\"pissa\"".to_owned(),
        "\"init_r\":12.5".to_owned(),
        "\"lora_parameters\":{\"scale\":20.0}".to_owned(),
        "\"fine_tune_type\":\"dora\"".to_owned(),
    ];
    let chosen = u32::from_le_bytes([choices.byte(), choices.byte(), choices.byte(), 0]);
    for (bit, field) in more.into_iter().enumerate() {
        let key = field.split(':').next().unwrap_or_default();
        let is_new = fields.iter().all(|other| !other.starts_with(key));
        if chosen >> bit & 1 == 1 && is_new {
            fields.push(field);
        }
    }
    Some(format!("{{{}}}", fields.join(",")))
}

/// The settings that diffusers keeps among the metadata.
fn metadata(choices: &mut Choices<'_>) -> &'static str {
    match choices.byte() {
        240.. => "\"lora_adapter_metadata\":\"{\\\"unet.lora_alpha\\\":8,\\\"unet.use_rslora\\\":true}\"",
        _ => "",
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let sizes = [Sizes::chosen(&mut choices), Sizes::chosen(&mut choices)];
    let config = config(&sizes[0], &mut choices);
    let (with_base, with_initial) = (choices.byte() % 2 == 1, choices.byte() % 4 == 3);
    // The difference from an initial adapter may be as large as a stated size, whatever is in the files.
    let with_initial = with_initial && sizes.iter().all(Sizes::are_few);
    let (metadata, skipped) = (metadata(&mut choices), choices.one(&[0, 0, 0, 2]));
    // A stretch for the base's weights, then one for the adapter's; the adapter before training is
    // mostly like the trained one, from the same choices.
    let middle = choices.0.len().min(64);
    let (of_base, of_adapter) = choices.0.split_at(middle);
    let tuned = adapter(&sizes, &mut Choices(of_adapter)).bytes(metadata);
    let base = with_base.then(|| base(&sizes, &mut Choices(of_base)).bytes(""));
    let initial = with_initial
        .then(|| adapter(&sizes, &mut Choices(of_adapter.get(skipped..).unwrap_or_default())).bytes(""));
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| {
            // In memory where there is such a place.
            let folder = tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .expect("a temporary folder");
            fs::create_dir(folder.path().join("adapter")).expect("made");
            fs::create_dir(folder.path().join("initial")).expect("made");
            folder
        });
        let at = |name: &str| folder.path().join(name);
        let mut size = tuned.len();
        fs::write(at("adapter/adapter_model.safetensors"), &tuned).expect("written");
        for file in ["adapter/adapter_config.json", "initial/adapter_config.json"] {
            place(&at(file), config.as_deref().map(str::as_bytes));
        }
        for (file, bytes) in [
            ("base.safetensors", &base),
            ("initial/adapter_model.safetensors", &initial),
        ] {
            place(&at(file), bytes.as_deref());
            size += bytes.as_ref().map_or(0, Vec::len);
        }
        let options = AuditOptions {
            base: base.is_some().then(|| at("base.safetensors")),
            initial: initial.is_some().then(|| at("initial")),
            ..AuditOptions::default()
        };
        let path = at("adapter");
        within_bounds(vec![0; size], |_| {
            let audit = match audit(&path, &options) {
                Ok(audit) => audit,
                // A base or an initial adapter that is no such thing ends the command.
                Err(_) if options.base.is_some() || options.initial.is_some() => return,
                Err(error) => panic!("the folder is there: {error}"),
            };
            let modules = audit.adapters.iter().flat_map(|adapter| &adapter.modules);
            for module in modules {
                let Some(spectrum) = &module.spectrum else {
                    continue;
                };
                let sigma = &spectrum.singular_values;
                assert!(sigma.is_sorted_by(|x, y| x >= y), "{}: {sigma:?}", module.name);
                assert!(sigma.iter().all(|&x| x >= 0.0), "{}: {sigma:?}", module.name);
            }
        });
    });
});

/// Writes a file, or removes it.
fn place(path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("written"),
        None => drop(fs::remove_file(path)),
    }
}

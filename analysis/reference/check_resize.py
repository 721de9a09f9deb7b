"""An independent look at `rankwise resize` and `rankwise extract`.

    python check_resize.py RANKWISE_BINARY [SCRATCH_DIR]

Makes small random models and adapters with PEFT, resizes the adapters with the binary, loads the
results into PEFT, and compares PEFT's own updates with NumPy's best approximation of the original
ones, and the stated errors with the true ones. Needs torch, peft, transformers, safetensors, numpy;
with diffusers also its loader. Prints a line for every comparison; exit code 1 if one does not hold.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

# Factors are written in float32; of an update of norm 1 that is some 1e-7.
TOLERANCE = 1e-6
binary = sys.argv[1]
scratch = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
scratch.mkdir(parents=True, exist_ok=True)
failures = 0


def check(name, holds, detail=""):
    global failures
    failures += not holds
    print(f"{'OK  ' if holds else 'FAIL'} {name} {detail}", flush=True)


def run(*arguments):
    out = Path(tempfile.mkdtemp(dir=scratch)) / "out"
    command = [binary, *map(str, arguments), "--json", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}: {result.stderr}")
    return out, json.loads(result.stdout)


def best(matrix, rank):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], np.sqrt((s[rank:] ** 2).sum()), s


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom"}
        self.embed = torch.nn.Embedding(30, 12)
        self.q = torch.nn.Linear(12, 12)
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"q": torch.nn.Linear(12, 16)}) for _ in range(3)])
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 4)


def model(seed=0):
    torch.manual_seed(seed)
    return Model()


def gpt2(seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=8)
    return transformers.GPT2Model(config)


def deltas(adapted):
    """PEFT's own updates, flattened to two dimensions, by module."""
    found = {}
    for name, module in adapted.named_modules():
        if hasattr(module, "get_delta_weight") and getattr(module, "active_adapters", None):
            delta = module.get_delta_weight(module.active_adapters[0]).detach().double().numpy()
            found[name.removeprefix("base_model.model.")] = delta.reshape(delta.shape[0], -1)
    return found


def randomise(adapted):
    """Spectra that fall, in every tensor that is trained."""
    generator = torch.Generator().manual_seed(7)
    for name, p in adapted.named_parameters():
        if p.requires_grad:
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=generator))
                if p.dim() > 1 and ("lora_A" in name or "lora_embedding_A" in name):
                    p.mul_(torch.tensor([0.6**k for k in range(p.shape[0])]).view(-1, *[1] * (p.dim() - 1)))


def compare(label, make, config, *rule, patterns=None):
    torch.manual_seed(1)
    adapted = peft.get_peft_model(make(), config)
    randomise(adapted)
    old = Path(tempfile.mkdtemp(dir=scratch))
    adapted.save_pretrained(old)
    # Some methods round or rescale when they save: what is compared is what a loader sees.
    adapted = peft.PeftModel.from_pretrained(make(), old)
    before = deltas(adapted)
    extra = []
    if any(part in label for part in ("VeRA", "window")):
        base = old / "base.safetensors"
        save_file({k: v.contiguous() for k, v in make().state_dict().items()}, base)
        extra = ["--base", base]
    out, record = run("resize", old, *rule, *extra)
    loaded = peft.PeftModel.from_pretrained(make(), out)
    after = deltas(loaded)
    check(f"{label}: modules", set(before) == set(after) == {m["name"] for m in record["modules"]})
    worst, stated = 0.0, 0.0
    ranks = {}
    for module in record["modules"]:
        name, rank = module["name"], module["new_rank"]
        ranks[name] = rank
        approximation, error, sigma = best(before[name], rank)
        whole = np.linalg.norm(before[name])
        worst = max(worst, np.linalg.norm(after[name] - approximation) / whole)
        true = np.linalg.norm(after[name] - before[name])
        stated = max(
            stated,
            abs(module["error"]["frobenius"] - error) / whole,
            abs(module["written"]["frobenius"] - true) / whole,
            abs(module["error"]["spectral"] - (sigma[rank] if rank < len(sigma) else 0)) / whole,
        )
    check(f"{label}: PEFT's update is the best of rank {sorted(set(ranks.values()))}", worst < TOLERANCE, f"{worst:.1e}")
    check(f"{label}: stated errors", stated < TOLERANCE, f"{stated:.1e}")
    if patterns:
        check(f"{label}: ranks by module", all(ranks[k] == v for k, v in patterns.items()), str(ranks))
    # PEFT would keep silent about a tensor that it does not know.
    missing = [k for k in load_file(out / "adapter_model.safetensors") if "lora" not in k]
    return old, out, missing


LINEAR = ["q", "conv", "embed"]
lora = dict(r=6, lora_alpha=16, target_modules=LINEAR)
compare("LoRA rank 2", model, peft.LoraConfig(**lora), "--rank", 2)
compare("LoRA energy", model, peft.LoraConfig(**lora), "--energy", 0.9)
compare("LoRA fold", model, peft.LoraConfig(**lora), "--energy", 0.9, "--scale", "fold")
compare("rsLoRA with patterns", model, peft.LoraConfig(
    **lora, use_rslora=True, rank_pattern={"layers.1.q": 3, "conv": 4}, alpha_pattern={"embed": 5}), "--energy", 0.95)
compare("LoRA ratio", model, peft.LoraConfig(**lora), "--spectral-ratio", 0.2)
compare("LoRA numerical", model, peft.LoraConfig(**lora), "--numerical")
# The module q alone: its name is the end of the others' names.
compare("LoRA by module", model, peft.LoraConfig(**lora), "--rank-per-module",
        '{"^q": 1, "layers.1.q": 3}', patterns={"q": 1, "layers.1.q": 3, "layers.0.q": 6, "conv": 6})
compare("LoRA orthogonal", model, peft.LoraConfig(
    r=6, target_modules=["q"], init_lora_weights="orthogonal"), "--rank", 3)
old, out, whole = compare("LoRA bias and modules_to_save", model, peft.LoraConfig(
    **lora, bias="all", modules_to_save=["head"]), "--rank", 2)
before, after = load_file(old / "adapter_model.safetensors"), load_file(out / "adapter_model.safetensors")
same = [k for k in before if "lora_" not in k]
check("others are copied", len(same) > 4 and all(torch.equal(before[k], after[k]) for k in same), f"{len(same)} tensors")
compare("GPT-2 Conv1D", gpt2, peft.LoraConfig(
    r=6, lora_alpha=3, target_modules=["c_attn", "c_fc", "wte"], fan_in_fan_out=True), "--energy", 0.9)
compare("LoHa", model, peft.LoHaConfig(r=3, alpha=2, target_modules=["q"]), "--rank", 4)
compare("LoHa window", model, peft.LoHaConfig(r=2, alpha=2, target_modules=["q", "conv"]), "--rank", 3)
compare("LoHa Tucker", model, peft.LoHaConfig(
    r=2, alpha=2, target_modules=["q", "conv"], use_effective_conv2d=True), "--rank", 3)
compare("LoKr", model, peft.LoKrConfig(r=2, alpha=3, target_modules=["q", "head"]), "--rank", 3)
compare("LoKr window", model, peft.LoKrConfig(r=2, alpha=3, target_modules=["q", "conv"]), "--rank", 3)
compare("VeRA", model, peft.VeraConfig(r=8, target_modules=["q"], d_initial=0.5), "--rank", 3)
compare("AdaLoRA", model, peft.AdaLoraConfig(
    init_r=6, target_r=4, lora_alpha=9, target_modules=["q"], total_step=10), "--rank", 2)


def pissa():
    """The beginning is taken away: the result belongs to the original base."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q"], init_lora_weights="pissa")
    adapted = peft.get_peft_model(model(), config)
    weight = lambda m: {n: x.weight.detach().double().numpy() + d for n, d in deltas(m).items()
                        for k, x in m.named_modules() if k == f"base_model.model.{n}.base_layer"}
    first, trained = Path(tempfile.mkdtemp(dir=scratch)), Path(tempfile.mkdtemp(dir=scratch))
    adapted.save_pretrained(first)
    start = weight(adapted)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.add_(0.1 * torch.randn_like(p))
    adapted.save_pretrained(trained)
    change = {n: w - start[n] for n, w in weight(adapted).items()}
    out, record = run("resize", trained, "--initial", first, "--rank", 3)
    after = deltas(peft.PeftModel.from_pretrained(model(), out))
    worst = max(np.linalg.norm(after[n] - best(c, 3)[0]) / np.linalg.norm(c) for n, c in change.items())
    check("PiSSA: the change of the original base", worst < 1e-5, f"{worst:.1e}")


def kohya():
    """A kohya file by its formula: up · down · alpha / rank."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    linear, conv = "lora_unet_down_blocks_0_attentions_0_proj", "lora_unet_mid_block_conv1"
    tensors = {
        f"{linear}.lora_down.weight": draw(5, 12), f"{linear}.lora_up.weight": draw(9, 5),
        f"{linear}.alpha": torch.tensor(3.0),
        f"{conv}.lora_down.weight": draw(5, 4, 3, 3), f"{conv}.lora_up.weight": draw(7, 5, 1, 1),
        f"{conv}.alpha": torch.tensor(2.0, dtype=torch.float16),
    }
    path = Path(tempfile.mkdtemp(dir=scratch)) / "adapter.safetensors"
    save_file(tensors, path, {"ss_network_dim": "5", "anything": "\"else\""})

    def update(t, name):
        up, down = t[f"{name}.lora_up.weight"].double(), t[f"{name}.lora_down.weight"].double()
        scale = t[f"{name}.alpha"].double().item() / down.shape[0]
        return (up.flatten(1) @ down.flatten(1)).numpy() * scale

    out, record = run("resize", path, "--rank", 3)
    after = load_file(out / "adapter.safetensors")
    for name in (linear, conv):
        old = update(tensors, name)
        worst = np.linalg.norm(update(after, name) - best(old, 3)[0]) / np.linalg.norm(old)
        check(f"kohya {name}", worst < TOLERANCE, f"{worst:.1e}")
    shapes = [tuple(after[f"{conv}.lora_{s}.weight"].shape) for s in ("down", "up")]
    check("kohya shapes", shapes == [(3, 4, 3, 3), (7, 3, 1, 1)] and after[f"{conv}.alpha"].dtype == torch.float16)
    from safetensors import safe_open
    with safe_open(out / "adapter.safetensors", "pt") as f:
        check("kohya metadata", f.metadata() == {"ss_network_dim": "5", "anything": "\"else\""})


def diffusers_ranks():
    """Uneven ranks in diffusers' layout: its loader would scale by them, were they not stated."""
    try:
        import diffusers
    except ImportError:
        print("skipped: no diffusers")
        return
    make = lambda: (torch.manual_seed(0), diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, norm_num_groups=4, attention_head_dim=4))[1]
    unet = make()
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"]))
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p))
            if "lora_A" in name and "up_blocks" in name:
                p.mul_(torch.tensor([1.0, 0.01, 0.01, 0.01]).view(-1, 1))
    before = deltas(unet)
    state = {f"unet.{k}": v.contiguous() for k, v in peft.get_peft_model_state_dict(unet).items()}
    path = Path(tempfile.mkdtemp(dir=scratch)) / "pytorch_lora_weights.safetensors"
    save_file(state, path, {"format": "pt"})
    out, record = run("resize", path, "--energy", 0.95)
    ranks = {m["name"]: m["new_rank"] for m in record["modules"]}
    loader = diffusers.loaders.StableDiffusionLoraLoaderMixin
    state, alphas, metadata = loader.lora_state_dict(
        str(out / "pytorch_lora_weights.safetensors"), return_lora_metadata=True)
    fresh = make()
    loader.load_lora_into_unet(state, network_alphas=alphas, unet=fresh, metadata=metadata)
    after = deltas(fresh)
    worst = max(np.linalg.norm(after[n] - best(d, ranks[n])[0]) / np.linalg.norm(d) for n, d in before.items())
    check(f"diffusers, ranks {sorted(set(ranks.values()))}", len(set(ranks.values())) > 1 and worst < TOLERANCE, f"{worst:.1e}")


def change(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def extraction(label, make, skip, *rule):
    base, tuned = make(), make()
    change(tuned, 5)
    folders = [Path(tempfile.mkdtemp(dir=scratch)) for _ in range(2)]
    for folder, one in zip(folders, (base, tuned)):
        if hasattr(one, "save_pretrained"):
            one.save_pretrained(folder)
        else:
            save_file(one.state_dict(), folder / "model.safetensors")
    out, record = run("extract", "--base", folders[0], "--tuned", folders[1], *rule)
    loaded = peft.PeftModel.from_pretrained(make(), out)
    after, old, new = deltas(loaded), base.state_dict(), tuned.state_dict()
    names = {m["name"]: m for m in record["modules"]}
    expected = {k.removesuffix(".weight") for k, v in old.items() if v.dim() > 1 and not any(s in k for s in skip)}
    check(f"{label}: modules", set(names) == set(after) == expected, str(len(names)))
    worst, stated = 0.0, 0.0
    for name, module in names.items():
        delta = (new[f"{name}.weight"].double() - old[f"{name}.weight"].double()).flatten(1).numpy()
        approximation, error, _ = best(delta, module["rank"])
        whole = np.linalg.norm(delta)
        worst = max(worst, np.linalg.norm(after[name] - approximation) / whole)
        true = np.linalg.norm(after[name] - delta)
        stated = max(stated, abs(module["error"]["frobenius"] - error) / whole, abs(module["written"]["frobenius"] - true) / whole)
    check(f"{label}: PEFT's update is the best", worst < TOLERANCE, f"{worst:.1e}")
    check(f"{label}: stated errors", stated < TOLERANCE, f"{stated:.1e}")
    if "--whole" in rule:
        # Everything but the matrices is the tuned model's, in PEFT's own merged model.
        merged = loaded.merge_and_unload().state_dict()
        others = [k for k in new if k.removesuffix(".weight") not in names]
        check(f"{label}: taken whole", all(torch.equal(merged[k], new[k]) for k in others) and not record["not_covered"], f"{len(others)} tensors")


pissa()
kohya()
diffusers_ranks()
extraction("extract rank 3", model, ["embed"], "--rank", 3)
extraction("extract energy, whole", model, ["embed"], "--energy", 0.8, "--whole")
extraction("extract GPT-2", gpt2, ["wte", "wpe"], "--rank", 4)
extraction("extract GPT-2, whole", gpt2, ["wte", "wpe"], "--energy", 0.7, "--whole")
print(f"{failures} failures")
sys.exit(failures > 0)

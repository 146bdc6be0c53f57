"""Stage 1 prototype."""
import json, random, sys, time
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from dallemini import Pipeline, TextTokens, Tokenizer, Transformer
from dallemini.models import TransformerConfig
from dallemini.models.attention import attend
from captions import *
from dataset import *

OUT = Path("/root/s7/train/language4"); OUT.mkdir(exist_ok=True, parents=True)
VOCAB, LAYERS, FFN = 6000, 4, 512
torch.set_num_threads(1)
minutes = float(sys.argv[1]); lr = 1e-3
end = time.time() + 60 * minutes
pipe = Pipeline.from_pretrained(); old = pipe.transformer.float()
e = Emojis("/root/s7/data160", split="train"); rows = e.rows
extra = json.load(open("/root/s7/train/extra.json")) if Path("/root/s7/train/extra.json").exists() else {}
speaker = Speaker(rows, extra=extra); names = list(COLORS)
if (OUT / "tokenizer").exists():
    tok = Tokenizer.from_pretrained(OUT / "tokenizer")
else:
    rng = random.Random(0)
    texts = [speaker(r.hex, Look(style=r.style if n % 3 == 0 else None, ground=names[n % 11]), rng) for n, r in enumerate(rows)]
    for code in {r.hex for r in rows}:
        texts += speaker.phrases.get(code, []) * 2 + [speaker.labels[code]] * 3 + speaker.words[code]
    texts += sorted({w for r in rows for w in r.keywords})
    if Path("/root/s7/train/words.txt").exists(): texts += open("/root/s7/train/words.txt").read().splitlines()
    tok = Tokenizer.train(texts, vocab_size=VOCAB, max_length=32, normalize_text=True)
    tok.save_pretrained(OUT / "tokenizer")
oldc = old.config
model = Transformer.from_config(TransformerConfig(**{**oldc.to_dict(), "text_vocab_size": VOCAB, "encoder_layers": LAYERS, "encoder_ffn_dim": FFN}))

@torch.no_grad()
def warm():
    state = {k: v for k, v in old.state_dict().items() if k != "encoder.embed_tokens.weight"}
    missing = model.load_state_dict(state, strict=False)
    for l in model.encoder.layers[oldc.encoder_layers:]:
        l.self_attn_post_norm.weight.mul_(0.05); l.glu.out_proj.weight.mul_(0.05)
    W, E = old.encoder.embed_tokens.weight, model.encoder.embed_tokens.weight
    E.mul_(0.5)
    bo, bn = pipe.tokenizer.backend if hasattr(pipe.tokenizer, "backend") else pipe.tokenizer._backend, tok.backend if hasattr(tok, "backend") else tok._backend
    vocab_old = bo.get_vocab(); n = 0
    for piece, i in bn.get_vocab().items():
        if piece in vocab_old: E[i] = W[vocab_old[piece]]; n += 1
        else:
            ids = bo.encode(bn.decoder.decode([piece]), add_special_tokens=False).ids
            if ids: E[i] = W[ids].mean(0)
    print("kept pieces", n, "of", len(bn.get_vocab()))
    # whole words that the old vocabulary lacked: where a sentence encoder says they belong
    sys.path.insert(0, "/root/s7/train")
    from minilm import embed
    torch.set_grad_enabled(True)
    whole = [(p, i) for p, i in bn.get_vocab().items() if p.startswith("\u0120") and p[1:].isalpha() and len(p) > 3]
    M = embed([p[1:] for p, _ in whole]).double()
    known = torch.tensor([p in vocab_old for p, _ in whole])
    with torch.no_grad():
        X = torch.cat([M, torch.ones(len(M), 1)], 1); Y = E[[i for _, i in whole]].double()
        A = X[known]; fit = torch.linalg.solve(A.T @ A + 3.0 * torch.eye(385), A.T @ Y[known]); guess = X @ fit
        r = ((guess[known] - Y[known]).square().mean() / (Y[known] - Y[known].mean(0)).square().mean()).item()
        print("words", len(whole), "known", int(known.sum()), "unexplained", r)
        for n, (p, i) in enumerate(whole):
            if not known[n]: E[i] = 0.5 * E[i] + 0.5 * guess[n].float() * 1.3
if (OUT / "transformer/model.safetensors").exists():
    model = Transformer.from_pretrained(OUT / "transformer")
else:
    warm()
model.train()
for p in model.parameters(): p.requires_grad_(False)
for p in model.encoder.parameters(): p.requires_grad_(True)
print(sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.encoder.parameters()))
emb = [model.encoder.embed_tokens.weight]
rest = [p for p in model.encoder.parameters() if p is not emb[0]]
opt = torch.optim.AdamW([{"params": emb, "lr": 1.5 * lr, "base": 1.5 * lr}, {"params": rest, "lr": lr, "base": lr}], betas=(0.9, 0.98), weight_decay=0.0)
items = np.load("/root/s7/train/bank_items.npy"); bank = np.load("/root/s7/train/bank.npy", mmap_mode="r")

def ready():
    lines = open("/root/s7/train/bank.log").read().splitlines()
    return len(items) if lines[-1].startswith("done") else int(lines[-1].split()[0])

known = {}
def tokens(texts):
    out = []
    for t in texts:
        if t not in known: known[t] = tok(t).trim().input_ids[0]
        out.append(known[t])
    width = max(map(len, out)); pad = torch.full((len(out), width), 1)
    mask = torch.zeros(len(out), width, dtype=torch.bool)
    for n, r in enumerate(out): pad[n, : len(r)] = r; mask[n, : len(r)] = True
    return TextTokens(pad, mask)

def loss_of(texts, index):
    data = torch.from_numpy(np.ascontiguousarray(bank[np.sort(index)]))[torch.from_numpy(np.argsort(np.argsort(index)))].float()
    enc = model.encode(tokens(texts)); total = 0.0; mask = enc.attention_mask[:, None, None, :]
    for i, layer in enumerate(model.decoder.layers):
        c = layer.cross_attn; k, v = c.project_states(enc.hidden_states)
        q = data[:, 0, i].view(len(texts), -1, 4, 64).transpose(1, 2)
        a = attend(q, k, v, mask=mask).transpose(1, 2).flatten(2)
        t = layer.cross_attn_post_norm(c.out_proj(a)); target = data[:, 1, i]
        total = total + (t - target).square().mean((1, 2)) / VAR[i]
    return total / 6

s = torch.from_numpy(np.array(bank[:512])).float()
VAR = (s[:, 1] - s[:, 1].mean((0, 2), keepdim=True)).square().mean((0, 2, 3)); print("var", VAR)
dev = read_phrases("dev"); rng = random.Random(5)
white = [n for n in range(2000) if items[n][2] == 0 and items[n][1] == 0]
devset = [(rng.choice(dev[rows[items[n][0]].hex]), n) for n in white if dev.get(rows[items[n][0]].hex)][:256]
labset = [(rows[items[n][0]].label, n) for n in white][:128]
step = 0; t0 = time.time(); c0 = time.process_time(); log = []; B = 64; total_hint = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
def evaluate(pairs):
    with torch.no_grad():
        return float(loss_of([a for a, _ in pairs], np.array([b for _, b in pairs])).mean())
print("start dev", evaluate(devset), "label", evaluate(labset), flush=True)
while time.time() < end:
    m = ready(); rng = random.Random(1000 + step)
    chosen = [rng.randrange(m) for _ in range(4 * B)]
    texts = []
    for n in chosen:
        r, k, c = items[n]; row = rows[r]
        texts.append(speaker(row.hex, Look(style=row.style if k else None, ground=names[c]), rng))
    order = sorted(range(len(texts)), key=lambda n: len(tokens([texts[n]]).input_ids[0]))
    parts = [order[i::1][j * B:(j + 1) * B] for i in (0,) for j in range(4)]; rng.shuffle(parts)
    for part in parts:
        f = min(1, (step + 1) / 60) * (0.1 + 0.9 * min(1.0, max(0.0, (end - time.time()) / (0.25 * 60 * minutes))))
        for g in opt.param_groups: g["lr"] = g["base"] * f
        l = loss_of([texts[n] for n in part], np.array([chosen[n] for n in part])).mean()
        opt.zero_grad(); l.backward(); torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0); opt.step()
        log.append(l.item()); step += 1
        if step % 40 == 0:
            print(step, f"loss {np.mean(log[-40:]):.4f} lr {f:.2f} {40 * B / (time.time() - t0):.0f}/s, cpu {40 * B / (time.process_time() - c0):.0f}/s bank {m} {time.strftime('%H:%M')}", flush=True); t0 = time.time(); c0 = time.process_time()
        if step % 200 == 0:
            print("   dev", evaluate(devset), "label", evaluate(labset), flush=True); model.save_pretrained(OUT / "transformer"); t0 = time.time(); c0 = time.process_time()
print("end dev", evaluate(devset), "label", evaluate(labset), "steps", step)
model.save_pretrained(OUT / "transformer")

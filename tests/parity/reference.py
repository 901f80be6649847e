"""The SeedVR networks in numpy and float64, written apart from skipsr_jax: numbers to compare with.

Weights have the official names and torch's layouts: linear (out, in), convolution
(out, in, t, h, w). Written for the reader: no buckets, no index arrays, one window at a time.
Sources: SeedVR (arXiv 2501.01320), its public code, and SkipSR section 4.2 for skipped tokens.

Axes as in docs/glossary.md; videos and latents are (f, h, w, c).
"""

import itertools
import math
import re

import numpy as np


def at(weights, prefix):
    """The weights under ``prefix``, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def linear(weights, x, name):
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    """Its approximation by tanh."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def rms(x, weight=1.0):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight


# ---- the transformer


def windows(grid, shifted):
    """Boxes ((t0, t1), (r0, r1), (q0, q1)) of the 720p rule: 4 x 3 x 3 windows of 30 x 45 x 80."""
    t, r, q = grid
    scale = math.sqrt(45 * 80 / (r * q))
    sizes = (
        math.ceil(min(t, 30) / 4),
        math.ceil(round(r * scale) / 3),
        math.ceil(round(q * scale) / 3),
    )
    cuts = []
    for length, size in zip(grid, sizes, strict=True):
        if shifted and size < length:
            inner = [int((i + 0.5) * size) for i in range(length // size + 1)]
        else:
            inner = range(0, length, size)
        ends = sorted({0, length, *(cut for cut in inner if cut < length)})
        cuts.append(list(itertools.pairwise(ends)))
    return [(along_t, along_r, along_q)
            for along_q in cuts[2] for along_r in cuts[1] for along_t in cuts[0]]  # fmt: skip


def patchify(latent):
    """Latent (t, h, w, c) -> tokens (t, r, q, 4 c)."""
    t, h, w, c = latent.shape
    x = latent.reshape(t, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(t, h // 2, w // 2, 4 * c)


def unpatchify(tokens):
    """Tokens (t, r, q, 4 c) -> latent (t, 2 r, 2 q, c)."""
    t, r, q, c = tokens.shape
    x = tokens.reshape(t, r, q, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(t, 2 * r, 2 * q, c // 4)


def time_embedding(weights, timestep):
    angles = timestep * 10000.0 ** (-np.arange(128) / 128)
    x = np.concatenate([np.sin(angles), np.cos(angles)])
    x = silu(linear(weights, x, "emb_in.proj_in"))
    return linear(weights, silu(linear(weights, x, "emb_in.proj_hid")), "emb_in.proj_out")


def frequencies(head_dim, gated):
    """Of the rotary embedding along one axis: of 3B (``gated``) or 7B."""
    if gated:
        count = head_dim // 3 // 2
        return 10000.0 ** (-np.arange(count) / count)
    return math.pi * np.linspace(1, 128, head_dim // 2 // 3 // 2)


def rotate(x, positions, turns):
    """Rotary embedding of heads (n, a, p): pairs of channels, first t's, then r's, then q's."""
    angles = np.concatenate([p[:, None] * turns for p in positions], axis=1)[:, None]
    half = angles.shape[-1]
    pairs = x[..., : 2 * half].reshape(*x.shape[:-1], half, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = np.stack(
        [
            even * np.cos(angles) - odd * np.sin(angles),
            odd * np.cos(angles) + even * np.sin(angles),
        ],
        axis=-1,
    )
    return np.concatenate([turned.reshape(*x.shape[:-1], -1), x[..., 2 * half :]], axis=-1)


def of_branch(weights, branch):
    """Names that speak of a branch (vid, txt or all) without it."""
    inside = re.compile(rf"\.{branch}(?=\.|$)")
    return {inside.sub("", k): v for k, v in weights.items() if inside.search(k)}


class DiT:
    """``gated``: the 3B kind (SwiGLU, rotary embedding of indices, plain text at last), else 7B."""

    def __init__(self, weights, heads):
        self.weights = {k: np.asarray(v, np.float64) for k, v in weights.items()}
        self.heads = heads
        self.gated = any(k.endswith("proj_in_gate.weight") for k in weights)
        self.layers = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("blocks."))

    def __call__(self, latent, text, timestep, keep):
        """Velocity (t, h, w, c), zero where ``keep`` (t, r, q) is false, and inner activations."""
        vid = linear(self.weights, patchify(np.asarray(latent, np.float64)), "vid_in.proj")
        vid = np.where(keep[..., None], vid, 0)
        txt = linear(self.weights, np.asarray(text, np.float64), "txt_in")
        emb = time_embedding(self.weights, float(timestep))
        inner = {"txt_in": txt, "vid_in": vid, "emb": emb}
        for layer in range(self.layers):
            vid, txt = self.block(layer, vid, txt, emb, keep)
            inner |= {f"block{layer}_vid": vid, f"block{layer}_txt": txt}
        if self.gated:
            vid = rms(vid, self.weights["vid_out_norm.weight"])
            vid = self.modulate_in(vid, emb, self.weights, "vid_out_ada.out", 0)
        out = np.where(keep[..., None], linear(self.weights, vid, "vid_out.proj"), 0)
        return unpatchify(out), inner

    def modulate_in(self, x, emb, own, name, slot):
        """``slot``: 0 attention, 1 MLP. The embedding holds shift, scale and gate of each."""
        shift, scale, _ = emb.reshape(-1, 2, 3)[:, slot].T
        return x * (scale + own[f"{name}_scale"]) + shift + own[f"{name}_shift"]

    def modulate_out(self, x, emb, own, name, slot):
        return x * (emb.reshape(-1, 2, 3)[:, slot, 2] + own[f"{name}_gate"])

    def block(self, layer, vid, txt, emb, keep):
        weights = at(self.weights, f"blocks.{layer}.")
        shared = any(k.startswith("attn.proj_qkv.all.") for k in weights)
        own = [of_branch(weights, "all" if shared else branch) for branch in ("vid", "txt")]
        # The last block of the 3B kind gives its text no modulation and has no use for it later.
        last = self.gated and layer == self.layers - 1
        inputs = [self.modulate_in(rms(vid), emb, own[0], "ada.attn", 0), rms(txt)]
        if not last:
            inputs[1] = self.modulate_in(inputs[1], emb, own[1], "ada.attn", 0)
        attended = self.attention(layer, *inputs, *own, keep)
        streams = []
        for x, y, weights in zip((vid, txt), attended, own, strict=True):
            if last and streams:
                streams.append(x)
                continue
            x = x + self.modulate_out(y, emb, weights, "ada.attn", 0)
            y = self.mlp(self.modulate_in(rms(x), emb, weights, "ada.mlp", 1), weights)
            streams.append(x + self.modulate_out(y, emb, weights, "ada.mlp", 1))
        return streams

    def mlp(self, x, own):
        hidden = linear(own, x, "mlp.proj_in")
        if self.gated:
            hidden = silu(linear(own, x, "mlp.proj_in_gate")) * hidden
        else:
            hidden = gelu(hidden)
        return linear(own, hidden, "mlp.proj_out")

    def attention(self, layer, vid, txt, vid_own, txt_own, keep):
        """Kept tokens of a window attend to each other and to the text; text is averaged."""

        def qkv(x, own):
            y = linear(own, x, "attn.proj_qkv").reshape(len(x), 3, self.heads, -1)
            q, k, v = y.swapaxes(0, 1)
            return rms(q, own["attn.norm_q.weight"]), rms(k, own["attn.norm_k.weight"]), v

        turns = frequencies(len(vid_own["attn.norm_q.weight"]), self.gated)
        out, texts = np.zeros_like(vid), []
        text = qkv(txt, txt_own)
        if self.gated:
            positions = [np.arange(len(txt))] * 3
            text = [rotate(x, positions, turns) for x in text[:2]] + [text[2]]
        for box in windows(vid.shape[:3], layer % 2 == 1):
            inside = tuple(slice(*ends) for ends in box)
            kept = keep[inside]
            if not kept.any():
                continue
            positions = self.positions(kept, len(txt))
            q, k, v = qkv(vid[inside][kept], vid_own)
            q, k = rotate(q, positions, turns), rotate(k, positions, turns)
            q, k, v = (np.concatenate(pair) for pair in zip((q, k, v), text, strict=True))
            scores = np.einsum("iap,jap->aij", q, k) / math.sqrt(q.shape[-1])
            y = np.einsum("aij,jap->iap", softmax(scores), v).reshape(len(q), -1)
            count = int(kept.sum())
            out[inside][kept] = linear(vid_own, y[:count], "attn.proj_out")
            texts.append(y[count:])
        return out, linear(txt_own, np.mean(texts, axis=0), "attn.proj_out")

    def positions(self, kept, text_length):
        """Of kept tokens along t, r, q inside their whole window."""
        index = np.nonzero(kept)
        if self.gated:
            return [index[0] + text_length, index[1], index[2]]
        axes = [np.linspace(-1, 1, n) for n in kept.shape]
        return [axis[i] for axis, i in zip(axes, index, strict=True)]


# ---- the autoencoder


def conv(weights, x, name, stride=(1, 1)):
    """Causal in time (the first frame stands before itself), zero padded by 1 in space.

    ``stride``: of time and of space. A stride of 2 in space pads below and on the right alone.
    """
    kernel, (time, space) = weights[f"{name}.weight"], stride
    taps, high, wide = kernel.shape[2:]
    x = np.concatenate([x[:1]] * (taps - 1) + [x])
    before = int(high == 3 and space == 1)
    x = np.pad(x, ((0, 0), (before, high // 2), (before, wide // 2), (0, 0)))
    f = (x.shape[0] - taps) // time + 1
    h, w = ((n - high) // space + 1 for n in x.shape[1:3])
    y = weights[f"{name}.bias"]
    for i, j, k in itertools.product(range(taps), range(high), range(wide)):
        part = x[i : i + time * (f - 1) + 1 : time]
        part = part[:, j : j + space * (h - 1) + 1 : space, k : k + space * (w - 1) + 1 : space]
        y = y + part @ kernel[:, :, i, j, k].T
    return y


def group_norm(weights, x, name, groups):
    """Of each frame alone."""
    f, h, w, c = x.shape
    y = x.reshape(f, h * w, groups, c // groups)
    mean = y.mean(axis=(1, 3), keepdims=True)
    y = (y - mean) / np.sqrt(y.var(axis=(1, 3), keepdims=True) + 1e-6)
    return y.reshape(x.shape) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


class VAE:
    """The encoder and the decoder; ``groups`` of the group norms leave no trace in the weights."""

    def __init__(self, weights, groups):
        weights = {k: np.asarray(v, np.float64) for k, v in weights.items()}
        self.encoder, self.decoder = at(weights, "encoder."), at(weights, "decoder.")
        self.groups = groups

    def resnet(self, weights, x):
        y = conv(weights, silu(group_norm(weights, x, "norm1", self.groups)), "conv1")
        y = conv(weights, silu(group_norm(weights, y, "norm2", self.groups)), "conv2")
        return y + (conv(weights, x, "conv_shortcut") if "conv_shortcut.weight" in weights else x)

    def attention(self, weights, x):
        """One head over all pixels of a frame."""
        f, h, w, c = x.shape
        y = group_norm(weights, x, "group_norm", self.groups).reshape(f, h * w, c)
        q, k, v = (linear(weights, y, f"to_{name}") for name in "qkv")
        y = softmax(q @ k.swapaxes(1, 2) / math.sqrt(c)) @ v
        return x + linear(weights, y, "to_out.0").reshape(x.shape)

    def middle(self, weights, x):
        """The middle block, and what its attention gives."""
        attended = self.resnet(at(weights, "resnets.0."), x)
        attended = self.attention(at(weights, "attentions.0."), attended)
        return self.resnet(at(weights, "resnets.1."), attended), attended

    def resnets(self, weights, x):
        for i in range(len({k.split(".")[1] for k in weights if k.startswith("resnets.")})):
            x = self.resnet(at(weights, f"resnets.{i}."), x)
        return x

    def upsample(self, weights, x):
        """A 1 x 1 x 1 convolution whose channels become pixels and frames, then 3 x 3 x 3."""
        f, h, w, c = x.shape
        y = conv(weights, x, "upsamplers.0.upscale_conv")
        tz = y.shape[-1] // (4 * c)
        y = y.reshape(f, h, w, 2, 2, tz, c).transpose(0, 5, 1, 3, 2, 4, 6)
        y = y.reshape(f * tz, 2 * h, 2 * w, c)
        if tz == 2:
            y = np.concatenate([y[:1], y[2:]])
        return conv(weights, y, "upsamplers.0.conv")

    def encode(self, x):
        """Pixels in [-1, 1] (f, h, w, 3) -> mean, log variance (t, h, w, c), inner activations."""
        weights = self.encoder
        x = conv(weights, np.asarray(x, np.float64), "conv_in")
        inner = {"enc_conv_in": x}
        for i in range(4):
            block = at(weights, f"down_blocks.{i}.")
            x = self.resnets(block, x)
            if i < 3:
                x = conv(block, x, "downsamplers.0.conv", stride=(2 if i else 1, 2))
            inner[f"enc_down{i}"] = x
        x, inner["enc_mid_attn"] = self.middle(at(weights, "mid_block."), x)
        inner["enc_mid"] = x
        x = conv(weights, silu(group_norm(weights, x, "conv_norm_out", self.groups)), "conv_out")
        mean, logvar = np.split(x, 2, axis=-1)
        return mean, logvar.clip(-30, 20), inner

    def decode(self, z):
        """Latents (t, h, w, c), unscaled -> pixels (f, h, w, 3), and inner activations."""
        weights = self.decoder
        x = conv(weights, np.asarray(z, np.float64), "conv_in")
        inner = {"dec_conv_in": x}
        x, _ = self.middle(at(weights, "mid_block."), x)
        inner["dec_mid"] = x
        for i in range(4):
            block = at(weights, f"up_blocks.{i}.")
            x = self.resnets(block, x)
            x = self.upsample(block, x) if i < 3 else x
            inner[f"dec_up{i}"] = x
        x = conv(weights, silu(group_norm(weights, x, "conv_norm_out", self.groups)), "conv_out")
        return x, inner

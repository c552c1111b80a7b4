"""SegFormer3D in PyTorch, for boxes of any size, under the tensor names of its published checkpoints.

The network as published (arXiv 2404.10156) with the token grid (D, H, W) carried along: what the engine is compared
with, in speed and in values. `SegFormer3D(config)` takes the `network` map of a manifest; both attention scales.
"""
import torch
from torch import nn
from torch.nn import functional


def tokens(volume):
    """(B, C, D, H, W) -> (B, D*H*W, C)"""
    return volume.flatten(2).transpose(1, 2)


def volume(sequence, grid):
    """(B, D*H*W, C) -> (B, C, D, H, W)"""
    return sequence.transpose(1, 2).reshape(sequence.shape[0], -1, *grid)


class PatchEmbedding(nn.Module):
    def __init__(self, channels, width, kernel, stride, padding):
        super().__init__()
        self.patch_embeddings = nn.Conv3d(channels, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.patch_embeddings(x)
        return self.norm(tokens(x)), x.shape[2:]


class Attention(nn.Module):
    def __init__(self, width, heads, reduction, scale):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads if scale == "head_dim" else heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv3d(width, width, reduction, reduction)
            self.sr_norm = nn.LayerNorm(width)

    def forward(self, x, grid):
        batch, count, width = x.shape
        reduced = self.sr_norm(tokens(self.sr(volume(x, grid)))) if hasattr(self, "sr") else x
        query = self.query(x).view(batch, count, self.heads, -1).transpose(1, 2)
        key, value = (part.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
                      for part in self.key_value(reduced).chunk(2, -1))
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, count, width))


class DepthwiseConvolution(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv3d(width, width, 3, 1, 1, groups=width)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x, grid):
        return tokens(self.bn(self.dwconv(volume(x, grid))))


class MixFeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConvolution(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x, grid):
        return self.fc2(functional.gelu(self.dwconv(self.fc1(x), grid)))


class Block(nn.Module):
    def __init__(self, width, heads, reduction, ratio, scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction, scale)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MixFeedForward(width, width * ratio)

    def forward(self, x, grid):
        x = x + self.attention(self.norm1(x), grid)
        return x + self.mlp(self.norm2(x), grid)


class Encoder(nn.Module):
    """Four stages; each gives its map after the stage's norm, which feeds the next stage too."""

    def __init__(self, config):
        super().__init__()
        channels = [config["in_channels"], *config["embed_dims"]]
        for s in range(4):
            width = config["embed_dims"][s]
            setattr(self, f"embed_{s + 1}", PatchEmbedding(channels[s], width, config["patch_kernel"][s],
                                                           config["patch_stride"][s], config["patch_padding"][s]))
            setattr(self, f"tf_block{s + 1}", nn.ModuleList(
                Block(width, config["num_heads"][s], config["sr_ratios"][s], config["mlp_ratios"][s],
                      config["attention_scale"]) for _ in range(config["depths"][s])))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(width))

    def stage(self, s, x):
        sequence, grid = getattr(self, f"embed_{s}")(x)
        for block in getattr(self, f"tf_block{s}"):
            sequence = block(sequence, grid)
        return volume(getattr(self, f"norm{s}")(sequence), grid)

    def forward(self, x):
        stages = []
        for s in range(1, 5):
            x = self.stage(s, x)
            stages.append(x)
        return stages


class Projection(nn.Module):
    """`bn` is a LayerNorm: the name is the checkpoints'."""

    def __init__(self, width, decoder_width):
        super().__init__()
        self.proj = nn.Linear(width, decoder_width)
        self.bn = nn.LayerNorm(decoder_width)

    def forward(self, x):
        return volume(self.bn(self.proj(tokens(x))), x.shape[2:])


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["decoder_dim"]
        for s in range(4, 0, -1):
            setattr(self, f"linear_c{s}", Projection(config["embed_dims"][s - 1], width))
        self.linear_fuse = nn.Sequential(nn.Conv3d(4 * width, width, 1, bias=False), nn.BatchNorm3d(width),
                                         nn.ReLU())
        self.linear_pred = nn.Conv3d(width, config["num_classes"], 1)
        self.upsample = config["patch_stride"][0]

    def forward(self, stages):
        grid = stages[0].shape[2:]
        maps = [getattr(self, f"linear_c{s}")(stages[s - 1]) for s in range(4, 0, -1)]
        maps = [functional.interpolate(m, grid, mode="trilinear") if m.shape[2:] != grid else m for m in maps]
        logits = self.linear_pred(self.linear_fuse(torch.cat(maps, 1)))
        factors = self.upsample if isinstance(self.upsample, (list, tuple)) else [self.upsample] * 3
        return functional.interpolate(logits, [g * f for g, f in zip(grid, factors)], mode="trilinear")


class SegFormer3D(nn.Module):
    """(B, C, D, H, W) -> logits (B, classes, D', H', W'): the stem's grid times its stride."""

    def __init__(self, config):
        super().__init__()
        self.segformer_encoder = Encoder(config)
        self.segformer_decoder = Decoder(config)

    def forward(self, x):
        return self.segformer_decoder(self.segformer_encoder(x))


def load(config, tensors):
    """A network for inference with the arrays of a checkpoint; its optional groups may be absent as a whole."""
    network = SegFormer3D(config).eval()
    state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    for name, module in network.named_modules():
        if name + ".weight" in state and name.endswith((".query", ".key_value")):
            state.setdefault(name + ".bias", torch.zeros_like(module.bias))
        if name.endswith((".mlp.dwconv", "linear_c4", "linear_c3", "linear_c2", "linear_c1")) and name + ".bn.weight" not in state:
            module.bn = nn.Identity()
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"missing: {missing}, unexpected: {unexpected}")
    return network

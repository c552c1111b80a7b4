"""Training steps of SegFormer3D in less memory, and how many bytes a step holds.

    attention   softmax(q k^T) is never kept (scaled_dot_product_attention)               exact
    decoder     each stage is fused on its own grid before it is up-sampled; quicker too   exact
    recompute   a block keeps its input only, and runs again on the way back              exact
    quantized   what is kept for the way back is kept in 8 bits (Mesa, arXiv 2111.11124)  gradients with a little noise
    local2, local4   2 or 4 modules between which no gradient flows; each learns the task with a head of its own and to
                reconstruct its input's features (arXiv 2212.14215)                       other gradients
    rfr2, rfr4  the same, but a module reconstructs random regions of them with a unit of two convolutions (random feature
                reconstruction, arXiv 2207.08267)                                         other gradients

`Step(network, loss, options)` is a module whose `backward(x, target)` fills the gradients and returns the loss.
"""
import contextlib
import math
import weakref

import torch
from torch import nn
from torch.nn import functional

import model_folder
import segformer3d_torch
from segformer3d_torch import tokens, volume

# The last stages of the modules but the last one, which the decoder belongs to.
LOCAL = {"local2": [2], "local4": [1, 2, 3], "rfr2": [2], "rfr4": [1, 2, 3]}
OPTIONS = ("attention", "decoder", "recompute", "quantized", *LOCAL)
PIECE = 4096         # groups that are rounded at a time
GROUP = 256          # neighbouring values that share a smallest value and a step in 8 bits
SMALLEST = 1 << 14   # tensors below are kept as they are: statistics of norms, biases
RECONSTRUCTION = 0.1  # weight of the reconstruction in the loss of a module of local2 and local4; of rfr2 and rfr4 it is 1
REGIONS = 10         # that a unit reconstructs of each sample
REGION_SHARE = 4     # of an axis is a region's side: 10 regions hold 16 % of the voxels


class Attention(segformer3d_torch.Attention):
    def forward(self, x, grid):
        batch, count, width = x.shape
        reduced = self.sr_norm(tokens(self.sr(volume(x, grid)))) if hasattr(self, "sr") else x
        query = self.query(x).view(batch, count, self.heads, -1).transpose(1, 2)
        key, value = (part.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
                      for part in self.key_value(reduced).chunk(2, -1))
        result = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.proj(result.transpose(1, 2).reshape(batch, count, width))


def interpolation(length, source, like):
    """The matrix (length, source) of linear interpolation along an axis, align_corners=False."""
    return functional.interpolate(torch.eye(source)[None], length, mode="linear")[0].t().contiguous().to(like.dtype)


class Decoder(segformer3d_torch.Decoder):
    """A 1x1x1 convolution and a linear interpolation commute, so the concatenation on the finest grid need not exist. In the
    tokens' layout each axis is a product with a constant matrix, of which the way back keeps nothing, and the last axis is one
    product for all stages."""

    def spread(self, x, grid):
        """(B, d, h, w, C) -> (B, D, H, w, C)"""
        batch, d, h, w, width = x.shape
        x = interpolation(grid[0], d, x) @ x.reshape(batch, d, -1)
        return (interpolation(grid[1], h, x) @ x.view(batch * grid[0], h, -1)).view(batch, *grid[:2], w, width)

    def forward(self, stages):
        grid, (fuse, norm, relu) = stages[0].shape[2:], self.linear_fuse
        parts, last = [], []
        for s, weight in zip(range(4, 0, -1), fuse.weight.flatten(1).chunk(4, 1)):
            projection, c = getattr(self, f"linear_c{s}"), stages[s - 1]
            part = functional.linear(projection.bn(projection.proj(tokens(c))), weight)
            if s == 1:
                break
            parts.append(self.spread(part.view(len(c), *c.shape[2:], -1), grid))
            last.append(interpolation(grid[2], c.shape[4], part))
        total = (torch.cat(last, 1) @ torch.cat(parts, 3)).view(part.shape) + part
        logits = volume(functional.linear(tokens(relu(norm(volume(total, grid)))), self.linear_pred.weight.flatten(1),
                                          self.linear_pred.bias), grid)
        factors = self.upsample if isinstance(self.upsample, (list, tuple)) else [self.upsample] * 3
        return functional.interpolate(logits.contiguous(), [g * f for g, f in zip(grid, factors)], mode="trilinear")


class DepthwiseProduct(torch.autograd.Function):
    """A depthwise 3x3x3 convolution whose way back is several times as fast as the library's on CPUs: towards x a convolution
    with the mirrored kernel, towards the kernel 9 batched products of rows of which the three diagonals are summed."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return functional.conv3d(x, weight.to(x.dtype), bias.to(x.dtype), 1, 1, 1, len(weight))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        batch, width, d, h, w = x.shape
        mirrored = weight.flip(2, 3, 4).to(gradient.dtype)
        to_x = functional.conv3d(gradient, mirrored, None, 1, 1, 1, width)
        # Rows of x with one voxel around the volume, rows of the gradient with the same count: a shift in z and y is a
        # shift of rows, no copy.
        rows = functional.pad(x, (1, 1, 1, 1, 1, 1)).reshape(batch * width, (d + 2) * (h + 2), w + 2)
        others = functional.pad(gradient, (0, 0, 0, 2)).reshape(batch * width, d * (h + 2), w)[:, :-2].transpose(1, 2)
        to_weight = torch.empty(weight.shape, dtype=weight.dtype)
        for z in range(3):
            for y in range(3):
                start = z * (h + 2) + y
                product = torch.bmm(others, rows[:, start:start + others.shape[2]])
                product = product.view(batch, width, w, w + 2).sum(0, dtype=weight.dtype)
                for k in range(3):
                    to_weight[:, 0, z, y, k] = product.diagonal(k, 1, 2).sum(-1)
        return to_x, to_weight, gradient.sum((0, 2, 3, 4), dtype=weight.dtype)


class DepthwiseConvolution(segformer3d_torch.DepthwiseConvolution):
    def forward(self, x, grid):
        return tokens(self.bn(DepthwiseProduct.apply(volume(x, grid), self.dwconv.weight, self.dwconv.bias)))


@contextlib.contextmanager
def frozen_statistics(module):
    """Batch norms still use the batch's statistics, but do not count the batch a second time."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class Recomputed(torch.autograd.Function):
    """Unlike torch.utils.checkpoint it saves its input where hooks see it: so it is counted, and kept in 8 bits if asked."""

    @staticmethod
    def forward(ctx, x, grid, block, _parameter):
        ctx.save_for_backward(x)
        ctx.grid, ctx.block, ctx.is_bf16 = grid, block, torch.is_autocast_enabled("cpu")
        return block.plain(x, grid)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, ctx.is_bf16), frozen_statistics(ctx.block):
            result = ctx.block.plain(x, ctx.grid)
        torch.autograd.backward(result, gradient)
        return x.grad, None, None, None


class Block(segformer3d_torch.Block):
    def plain(self, x, grid):
        return super().forward(x, grid)

    def forward(self, x, grid):
        # A parameter among the inputs: the result needs a gradient even where x does not.
        return Recomputed.apply(x, grid, self, self.norm1.weight)


class Eighth:
    """A tensor in 8 bits with stochastic rounding, so that its mean over many roundings is the value itself."""

    def __init__(self, tensor):
        self.shape, self.type = tensor.shape, tensor.dtype
        flat = tensor.detach().reshape(-1)
        flat = functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
        self.low = flat.amin(1, keepdim=True).float()
        self.step = ((flat.amax(1, keepdim=True).float() - self.low) / 255).clamp_min_(1e-30)
        self.codes = torch.empty(flat.shape, dtype=torch.uint8)
        # By pieces: what is needed on the way is as large as the tensor, and this is about memory.
        for codes, *piece in zip(*(whole.split(PIECE) for whole in (self.codes, flat, self.low, self.step))):
            values, low, step = piece
            scaled = (values.float() - low).div_(step)
            codes.copy_(scaled.add_(torch.rand_like(scaled)).clamp_(0, 255))

    def tensors(self):
        return self.codes, self.low, self.step

    def tensor(self):
        flat = torch.addcmul(self.low, self.codes.float(), self.step).view(-1)
        return flat[:self.shape.numel()].view(self.shape).to(self.type)


class Kept:
    """What autograd holds of one saved tensor."""

    def __init__(self, content):
        self.content = content


class Saved:
    """Holds and counts what a step keeps for its way back: bytes of unique storages, parameters left out."""

    def __init__(self, parameters, is_quantized=False):
        self.parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self.is_quantized, self.counts, self.bytes, self.peak = is_quantized, {}, 0, 0
        self.packed = {}

    def hooks(self):
        return torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack)

    def is_activation(self, tensor):
        return tensor.is_floating_point() and tensor.numel() >= SMALLEST and tensor.shape[-1] > 1

    def eighth(self, tensor):
        """One for a tensor that several operations keep. The tensor itself may be gone and its place taken by another, so the
        finding holds only while its storage lives."""
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor._version)
        storage, found = self.packed.get(key, (None, None))
        found = found and found()
        if found is None or storage.expired():
            found = Eighth(tensor)
            self.packed[key] = torch.multiprocessing.reductions.StorageWeakRef(tensor.untyped_storage()), weakref.ref(found)
        return found

    def pack(self, tensor):
        if tensor.untyped_storage().data_ptr() in self.parameters:
            return tensor
        kept = Kept(self.eighth(tensor) if self.is_quantized and self.is_activation(tensor) else tensor)
        held = kept.content.tensors() if isinstance(kept.content, Eighth) else [tensor]
        for storage in (t.untyped_storage() for t in held):
            self.count(storage.data_ptr(), storage.nbytes(), 1)
            weakref.finalize(kept, self.count, storage.data_ptr(), storage.nbytes(), -1)
        return kept

    def count(self, place, size, change):
        before = self.counts.get(place, 0)
        self.counts[place] = before + change
        if before == 0 or before + change == 0:
            self.bytes += size * change
            self.peak = max(self.peak, self.bytes)

    def unpack(self, kept):
        if isinstance(kept, torch.Tensor):
            return kept
        return kept.content.tensor() if isinstance(kept.content, Eighth) else kept.content


class Reconstruction(nn.Conv3d):
    """The loss of reconstructing all that a module was given of what it made: a convolution of one voxel, mean squared error."""

    def __init__(self, width, given_width, _factors):
        super().__init__(width, given_width, 1)

    def forward(self, x, given):
        again = functional.interpolate(super().forward(x), given.shape[2:], mode="trilinear")
        return RECONSTRUCTION * functional.mse_loss(again.float(), given.float())


def cut(tensor, places, sides):
    """(B N, C, *sides): boxes of a tensor (B, C, D, H, W) whose first voxels are `places` (B, N, 3)."""
    return torch.stack([sample[(slice(None), *(slice(low, low + side) for low, side in zip(place, sides)))]
                        for sample, lows in zip(tensor, places.tolist()) for place in lows])


class RandomReconstruction(nn.Sequential):
    """The loss of reconstructing what a module was given in regions drawn anew for each sample, from the same regions of what it
    made: up-sampled, two convolutions of 3x3x3 voxels, mean absolute error. `factors`: voxels given for one made, of each axis."""

    def __init__(self, width, given_width, factors):
        super().__init__(nn.Conv3d(width, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(),
                         nn.Conv3d(width, given_width, 3, padding=1))
        self.factors = factors

    def regions(self, x, given):
        """(B REGIONS, C, d, h, w) of x and the same places of `given`."""
        sides = [max(min(-(-made // REGION_SHARE), length // factor), 1)
                 for made, length, factor in zip(x.shape[2:], given.shape[2:], self.factors)]
        wholes = [min(side * factor, length) for side, length, factor in zip(sides, given.shape[2:], self.factors)]
        rooms = [min(made - side, (length - whole) // factor) + 1
                 for made, side, length, whole, factor in zip(x.shape[2:], sides, given.shape[2:], wholes, self.factors)]
        places = torch.stack([torch.randint(room, (len(x), REGIONS)) for room in rooms], -1)
        return cut(x, places, sides), cut(given, places * torch.tensor(self.factors), wholes)

    def forward(self, x, given):
        made, wanted = self.regions(x, given)
        again = super().forward(functional.interpolate(made, wanted.shape[2:], mode="trilinear", align_corners=True))
        return functional.l1_loss(again.float(), wanted.float())


class Step(nn.Module):
    """Network, loss and the way back. `loss(logits, target)` is the task's."""

    def __init__(self, network, config, loss, options=(), is_bf16=False):
        super().__init__()
        self.network, self.loss, self.is_bf16 = network, loss, is_bf16
        self.is_quantized = "quantized" in options
        self.saved = None
        for module in network.modules():
            for name, plain, other in (("attention", segformer3d_torch.Attention, Attention),
                                       ("decoder", segformer3d_torch.Decoder, Decoder),
                                       ("recompute", segformer3d_torch.Block, Block),
                                       (None, segformer3d_torch.DepthwiseConvolution, DepthwiseConvolution)):
                if name in (None, *options) and type(module) is plain:
                    module.__class__ = other  # the same parameters with another way to compute
        way = next((option for option in options if option in LOCAL), "")
        self.ends = LOCAL.get(way, [])
        unit = RandomReconstruction if way.startswith("rfr") else Reconstruction
        widths, strides = [config["in_channels"], *config["embed_dims"]], [model_folder.triple(s) for s in config["patch_stride"]]
        self.heads = nn.ModuleList(nn.Conv3d(widths[end], config["num_classes"], 1) for end in self.ends)
        self.reconstructions = nn.ModuleList(unit(widths[end], widths[start], [math.prod(axis) for axis in zip(*strides[start:end])])
                                             for start, end in zip([0, *self.ends], self.ends))

    def local_loss(self, i, given, x, target):
        logits = functional.interpolate(self.heads[i](x), target.shape[-3:], mode="trilinear")
        return self.loss(logits.float(), target) + self.reconstructions[i](x, given)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, self.is_bf16)

    def backward(self, x, target):
        self.saved = Saved(self.parameters(), self.is_quantized)
        with self.saved.hooks():
            stages, given, s = [], x, 0
            for i, end in enumerate(self.ends):
                with self.autocast():
                    while s < end:
                        s += 1
                        x = self.network.segformer_encoder.stage(s, x)
                        stages.append(x)
                    loss = self.local_loss(i, given, x, target)
                loss.backward()  # before the next module begins: what this one kept is free
                del loss
                stages = [c.detach() for c in stages]
                x = given = stages[-1]
            with self.autocast():
                while s < 4:
                    s += 1
                    x = self.network.segformer_encoder.stage(s, x)
                    stages.append(x)
                logits = self.network.segformer_decoder(stages)
            loss = self.loss(logits.float(), target)
            loss.backward()
            return float(loss.detach())


def peak_bytes(run):
    """The most that `run()` had allocated at once above what was there before: every allocation of PyTorch, by its profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak

"""The key lists of the published weights, written down from the papers' tables, not from our nets.

Each entry is ``(published name, MONAI's name, shape)``.
"""

NORM = ("weight", "bias", "running_mean", "running_var")


def norm(published, ours, channels):
    entries = [(f"{published}.{part}", f"{ours}.{part}", (channels,)) for part in NORM]
    return [*entries, (f"{published}.num_batches_tracked", f"{ours}.num_batches_tracked", ())]


def densenet121(old_style):
    """torchvision's DenseNet-121: growth 32, bottleneck 128, blocks of 6, 12, 24, 16."""
    dot = "." if old_style else ""
    keys = [("features.conv0.weight", "conv0.weight", (64, 3, 7, 7)), *norm("features.norm0", "norm0", 64)]
    channels = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            name = f"denseblock{block}.denselayer{layer}"
            old, new = f"features.{name}", f"{name}.layers"
            keys += norm(f"{old}.norm{dot}1", f"{new}.norm1", channels)
            keys.append((f"{old}.conv{dot}1.weight", f"{new}.conv1.weight", (128, channels, 1, 1)))
            keys += norm(f"{old}.norm{dot}2", f"{new}.norm2", 128)
            keys.append((f"{old}.conv{dot}2.weight", f"{new}.conv2.weight", (32, 128, 3, 3)))
            channels += 32
        if block < 4:
            name = f"transition{block}"
            keys += norm(f"features.{name}.norm", f"{name}.norm", channels)
            keys.append((f"features.{name}.conv.weight", f"{name}.conv.weight", (channels // 2, channels, 1, 1)))
            channels //= 2
    keys += norm("features.norm5", "norm5", channels)
    keys += [("classifier.weight", None, (1000, channels)), ("classifier.bias", None, (1000,))]
    if old_style:  # files of 2017: before batch norm counted its batches
        keys = [entry for entry in keys if not entry[0].endswith("num_batches_tracked")]
    return keys


def resnet(layers, bottleneck):
    """torchvision's ResNets: 64 to 512 planes, bottlenecks four times as wide at their end."""
    keys = [("conv1.weight", "conv1.weight", (64, 3, 7, 7)), *norm("bn1", "bn1", 64)]
    channels = 64
    for stage, blocks in enumerate(layers):
        planes = 64 * 2**stage
        out = planes * (4 if bottleneck else 1)
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            if bottleneck:
                shapes = [(planes, channels, 1, 1), (planes, planes, 3, 3), (out, planes, 1, 1)]
            else:
                shapes = [(planes, channels, 3, 3), (planes, planes, 3, 3)]
            for number, shape in enumerate(shapes, start=1):
                keys.append((f"{name}.conv{number}.weight", f"{name}.conv{number}.weight", shape))
                keys += norm(f"{name}.bn{number}", f"{name}.bn{number}", shape[0])
            if channels != out or (block == 0 and stage > 0):
                down = f"{name}.downsample"
                keys.append((f"{down}.0.weight", f"{down}.0.weight", (out, channels, 1, 1)))
                keys += norm(f"{down}.1", f"{down}.1", out)
            channels = out
    return [*keys, ("fc.weight", None, (1000, channels)), ("fc.bias", None, (1000,))]


def efficientnet_lite0():
    """EfficientNet-Lite0: B0's stages without squeeze-and-excitation; block numbers run through all stages."""
    keys = [("_conv_stem.weight", "_conv_stem.weight", (32, 3, 3, 3)), *norm("_bn0", "_bn0", 32)]
    stages = [
        (1, 3, 1, 16),
        (2, 3, 6, 24),
        (2, 5, 6, 40),
        (3, 3, 6, 80),
        (3, 5, 6, 112),
        (4, 5, 6, 192),
        (1, 3, 6, 320),
    ]
    channels, number = 32, 0
    for stage, (repeats, kernel, expansion, out) in enumerate(stages):
        for _ in range(repeats):
            old, new = f"_blocks.{number}", f"_blocks.{stage}.{number}"
            wide = channels * expansion
            if expansion > 1:
                shape = (wide, channels, 1, 1)
                keys.append((f"{old}._expand_conv.weight", f"{new}._expand_conv.weight", shape))
                keys += norm(f"{old}._bn0", f"{new}._bn0", wide)
            shape = (wide, 1, kernel, kernel)
            keys.append((f"{old}._depthwise_conv.weight", f"{new}._depthwise_conv.weight", shape))
            keys += norm(f"{old}._bn1", f"{new}._bn1", wide)
            keys.append((f"{old}._project_conv.weight", f"{new}._project_conv.weight", (out, wide, 1, 1)))
            keys += norm(f"{old}._bn2", f"{new}._bn2", out)
            channels, number = out, number + 1
    keys += [("_conv_head.weight", "_conv_head.weight", (1280, 320, 1, 1)), *norm("_bn1", "_bn1", 1280)]
    return [*keys, ("_fc.weight", None, (1000, 1280)), ("_fc.bias", None, (1000,))]


LAYOUTS = {
    "densenet121": lambda: densenet121(old_style=False),
    "densenet121 of 2017": lambda: densenet121(old_style=True),
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "resnet101": lambda: resnet((3, 4, 23, 3), bottleneck=True),
    "efficientnet_lite0": efficientnet_lite0,
}

"""The benchmarks by name, each with the paragraph that explains it on the page."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.episodes import episode_items, superpixels
from benchmarks.explain import cam_maps, saliency_maps
from benchmarks.harness import Row
from benchmarks.knn import knn
from benchmarks.losses import losses
from benchmarks.micro_batches import micro_batches
from benchmarks.pieces import intervals
from benchmarks.pieces import views as two_views  # the name is that of a module here
from benchmarks.prototypes import organ_inference, prototype_head
from benchmarks.runs import engine, stages
from benchmarks.views import batched_views
from benchmarks.volumes import volumes

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "losses": losses,
    "views": two_views,
    "batched-views": batched_views,
    "intervals": intervals,
    "knn": knn,
    "saliency": saliency_maps,
    "grad-cam": cam_maps,
    "volumes": volumes,
    "superpixels": superpixels,
    "episode-item": episode_items,
    "prototype-head": prototype_head,
    "organ-inference": organ_inference,
    "engine": engine,
    "micro-batches": micro_batches,
    "stages": stages,
}

NOTES = {
    "losses": """Forward and backward, embeddings of 128 numbers. Peers are used where they are installed: lightly and
pytorch-metric-learning are not among the requirements. Slow or hungry peers (a broadcast over all pairs and dimensions)
are asked for small batches only. Memory is the growth of the resident size at its peak, of a process that does one
step.""",
    "views": """Crop, colour jitter and grey, twice. A sample's generators are seeded from (seed, epoch, sample); doing
it in the generators that are there gives the draws of MONAI's `set_random_state`, which makes new ones.""",
    "batched-views": """Both views of a batch made at once (`BatchedViews`), against MONAI's dictionary transforms and
against the same chain of array transforms (`TwoViewsd`), sample by sample; from images in memory to the collated views,
on one thread. MR is thesis table 4.3, RGB is SimCLR's; images are stored at 256 pixels for views of 224. MONAI's chains
(`scripts/benchmarks/views.py`) are what its user would write: `RandSpatialCropd` and `Resized`, with boxes drawn by
side, not by area and aspect ratio; a blur with a sigma an axis. For RGB they leave out saturation and hue, which MONAI
lacks, and so do less than ours. Large RGB views gain least, because single images already keep a core busy: ours is
then arithmetic on whole images, about three tenths each of it resizing, colour jitter (most of it the hue) and the blur
of 23 taps, and little is overhead that a batch could save.""",
    "intervals": """Percentile bootstrap of one test set. Resamples are weights, and a metric is computed for all of
them at once; the loop computes it on each of the same resamples.""",
    "knn": """Classes of frozen embeddings by their nearest neighbours' weighted votes, one normalisation of both sets
included in ours. lightly, where it is installed, is asked in batches of 256. Most of both is the product of queries and
bank, which ours leaves to oneDNN: how much that gains depends on the processor.""",
    "saliency": """Gradient of the class score with respect to the pixels. One backward pass of a batch is as exact as
one an image, because cases do not see each other in evaluation mode. Convolutions are most of its time (nine tenths
for ResNet-18), so that a batch gains what its convolutions gain: much where feature maps are small, less where they are
large. Both are computed in float32; equality is asserted in float64, because rounding can flip a ReLU near zero, where
the gradient jumps. Each line is timed in a process of its own, here and below: what ran before would leave memory that
either side gains from.""",
    "grad-cam": """Grad-CAM of the layer whose map is 4 x 4 or finer. MONAI's class is run one image at a time: with a
batch it sums the scores of all the batch's classes for every image.""",
    "volumes": """Volumes of 128 x 128 x 32 in compressed NIfTI, prepared (oriented, resampled, scaled), then a random
crop of 64 x 64 x 16 and a flip. Ours seeds every sample, which MONAI's does not do and is not timed for.""",
    "superpixels": """Abdominal phantoms in compressed NIfTI to their store, as `medssl superpixels` makes it: read,
resampled, cut by scikit-image's `felzenszwalb`, written with the image in half precision. Processes make scans side by
side, because that function keeps Python's lock. Where processor time is the clock, building is that of all processes by
their number.""",
    "episode-item": """One slice and one superpixel as its mask, drawn from the store, which lies in the system's file
cache after the first epoch; the peer has the scans in memory and cuts the drawn slice at each access, as the reference
implementation does, by the same method and with the same draws. The query of an episode is made of the whole batch on
the device, after the items.""",
    "prototype-head": """Features of episodes to scores, the prototypes included, and features of queries to scores by a
bank of four organs with three parts each. The peers select prototypes with masks and compare them as published code
does, a convolution for each query and organ; or take the equations word by word. Ours compares all windows, also those
that count for neither class, so that nothing waits for their number (a GPU would): on a CPU the loop over four
episodes, which multiplies with fewer rows, is about as fast or a little faster.""",
    "organ-inference": """`CoWProSegmenter` on a phantom with another as its support, blind protocol, ResNet-18 up to
its third stage: each slice in the range of an organ is encoded once, the support's when the bank is written. The loop
encodes a pair of slices for each organ and each slice in its range: 112 slices where ours encodes 26, and 9 for the
bank. Encoders are most of both, so that the ratio is about that of these numbers. Equality: logits to 1e-3, and the
same organ wherever the two best are further apart than rounding.""",
    "engine": """What the trainers do beside the step itself: named terms, guards against non-finite numbers, the
gradient's norm, seeds, events. Checkpoints, history and the teacher's own pass are not in it. A run has six steps;
times are those of a step.""",
    "micro-batches": """NT-Xent on ResNet-18, plain against two passes by parts with cached gradients
(`micro_batch_size`; the loss in chunks of 256). Memory is the largest resident size of a process that takes one step,
Python, torch and the images themselves included. Equality is asserted with group instead of batch statistics, which
would be those of a part. The goal holds for 1,024 samples in parts of 64, which need no more than one pass over 128; in
parts of 128 they need a quarter more. In time the first pass comes on top: a forward pass without graph.""",
    "stages": """`medssl run srcl_skin_lesion_classification STAGE --overlay smoke` on 140 phantoms, start of Python
included, one process after the other.""",
}

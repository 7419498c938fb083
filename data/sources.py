"""Where each benchmark comes from: its publisher, licence, folder layout, counts and citation."""

from dataclasses import dataclass

from . import find_benchmark

OGM = "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/main/data"
SARCASM = "https://raw.githubusercontent.com/headacheboy/data-of-multimodal-sarcasm-detection/master/text"
TOMBERT = "https://raw.githubusercontent.com/jefferyYu/TomBERT/master/absa_data/twitter2015"
YOUTUBE = (
    "Found anywhere below data_dir (class folders too) under the names that downloaders leave, as mp4, mkv, webm, avi, "
    "flv or mov: {id}_{start:06d}_{end:06d} (ActivityNet crawler, CVDF archives), {id}_{start:06d} (VGGSound's own), "
    "{id}_{start}_{end}, {id}_{start}, {id}_{start}_{end} in ms (audiosetdl), or {id} (Showmax's and CLIPSep's; it "
    "must be cut to the clip). Sound is read from a wav, flac, m4a, mp3 or ogg file of the same name if there is one, "
    "else from the video's own track."
)


@dataclass(frozen=True)
class Source:
    """What `prepare_data.py --how` tells of a benchmark.

    Args:
        title (`str`), modalities (`tuple[str]`), classes (`int`)
        counts (`dict[str, int]`): samples of each published split; empty where they depend on options.
        where (`tuple[str]`): how to obtain it, step by step.
        licence (`str`): as far as its publisher states one.
        layout (`tuple[str]`): what `data_dir` must hold, one entry a line.
        citation (`str`)
        urls (`dict[str, str]`): from an annotation file to an address that serves it.
        notes (`tuple[str]`): what differs from the paper, and other things to know.
        hub (`tuple[str]`): data sets of the Hub that hold these very samples, or a part of them.
        hub_licence (`str`): what the Hub calls the licence.
    """

    title: str
    modalities: tuple[str, ...]
    classes: int
    counts: dict[str, int]
    where: tuple[str, ...]
    licence: str
    layout: tuple[str, ...]
    citation: str
    urls: dict[str, str]
    notes: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    hub_licence: str = "unknown"

    @property
    def layout_line(self):
        """The layout as one sentence (`str`), for messages."""
        return f"data_dir must hold {'; '.join(self.layout)}."


SOURCES = {
    "crema_d": Source(
        title="CREMA-D",
        modalities=("audio", "video"),
        classes=6,
        counts={"train": 6698, "test": 744},
        where=(
            "Media: git lfs clone https://github.com/CheyneyComputerScience/CREMA-D (7.6 GB; a zip download holds only "
            "git-lfs pointers); mirror: https://gitlab.com/cs-cooper-lab/crema-d-mirror",
            "Split: train.csv and test.csv of https://github.com/GeWu-Lab/OGM-GE_CVPR2022, folder data/CREMAD",
        ),
        hub_licence="odbl",
        licence="Open Database License 1.0; contents: Database Contents License 1.0",
        layout=(
            "train.csv and test.csv (clip,EMOTION), there or in annotations/",
            "AudioWAV/{clip}.wav",
            "VideoFlash/{clip}.flv",
        ),
        citation="Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Transactions on "
        "Affective Computing, 2014",
        urls={name: f"{OGM}/CREMAD/{name}" for name in ("train.csv", "test.csv")},
        notes=("The split is random over clips: the same actors speak in train and test.",),
    ),
    "kinetics_sounds": Source(
        title="KineticsSounds",
        modalities=("audio", "video"),
        classes=31,
        counts={"train": 14799, "test": 2597},
        where=(
            "Media: the Kinetics-400 train and test archives of https://github.com/cvdfoundation/kinetics-dataset, or "
            "the clips one by one from YouTube",
            "Split: my_train.txt and my_test.txt of https://github.com/GeWu-Lab/OGM-GE_CVPR2022, folder "
            "data/KineticSound",
        ),
        hub_licence="other",
        licence="CC BY 4.0 for the annotation of Kinetics; the videos remain their uploaders' (YouTube's terms)",
        layout=("my_train.txt and my_test.txt (clip,seconds,class), there or in annotations/", "the clips"),
        citation="Arandjelovic and Zisserman, Look, Listen and Learn, ICCV 2017; Kay et al., The Kinetics Human Action "
        "Video Dataset, 2017",
        urls={name: f"{OGM}/KineticSound/{name}" for name in ("my_train.txt", "my_test.txt")},
        notes=(
            YOUTUBE,
            "The counts are those of the public split. Its classes are numbers; their names come from the labels of "
            "Kinetics itself, in which 750 of the training clips were looked up: 9 or more of a class, all agreeing.",
        ),
    ),
    "vggsound": Source(
        title="VGGSound",
        modalities=("audio", "video"),
        classes=309,
        counts={"train": 183730, "test": 15446},
        where=(
            "Media: from YouTube, with any of the public downloaders",
            "Annotation: vggsound.csv of https://www.robots.ox.ac.uk/~vgg/data/vggsound/, or train.csv and test.csv of "
            "https://github.com/hche11/VGGSound, folder data",
        ),
        hub_licence="other",
        licence="CC BY 4.0 for the annotation; the videos remain their uploaders' (YouTube's terms)",
        layout=(
            "vggsound.csv (id,start,label,split), or train.csv and test.csv ({id}_{start:06d}.mp4,label), there or in "
            "annotations/ or data/",
            "the clips",
        ),
        citation="Chen et al., VGGSound: A Large-scale Audio-Visual Dataset, ICASSP 2020",
        urls={"vggsound.csv": "https://www.robots.ox.ac.uk/~vgg/data/vggsound/vggsound.csv"},
        notes=(
            YOUTUBE,
            "The paper says 310 classes; the public files, and the VGGSound paper itself, have 309.",
            "The counts are those of stat.csv and test.csv of VGGSound's own repository.",
        ),
    ),
    "sarcasm": Source(
        title="Sarcasm (multi-modal Twitter, HFM)",
        modalities=("image", "text"),
        classes=2,
        counts={"train": 19816, "validation": 2410, "test": 2409},
        where=(
            "Text and links to the four image archives: "
            "https://github.com/headacheboy/data-of-multimodal-sarcasm-detection",
        ),
        licence="none is stated; tweets remain their authors' (Twitter's terms)",
        layout=(
            "train.txt, valid2.txt and test2.txt, there or in text/ or annotations/",
            "the pictures {id}.jpg in any folder, such as dataset_image/",
        ),
        citation="Cai, Cai and Wan, Multi-Modal Sarcasm Detection in Twitter with Hierarchical Fusion Model, ACL 2019",
        urls={name: f"{SARCASM}/{name}" for name in ("train.txt", "valid2.txt", "test2.txt")},
        notes=("train.txt has 29,040 lines; its authors leave out tweets with telling words, and 19,816 remain.",),
    ),
    "twitter2015": Source(
        title="Twitter2015",
        modalities=("image", "text"),
        classes=3,
        counts={"train": 3179, "validation": 1122, "test": 1037},
        where=(
            "Text: https://github.com/jefferyYu/TomBERT, folder absa_data/twitter2015",
            "Pictures: the archive that its README links (IJCAI2019_data), folder twitter2015_images",
        ),
        licence="none is stated; tweets remain their authors' (Twitter's terms)",
        layout=(
            "train.tsv, dev.tsv and test.tsv, there or in twitter2015/ or annotations/",
            "twitter2015_images/{ImageID}",
        ),
        citation="Yu and Jiang, Adapting BERT for Target-Oriented Multimodal Sentiment Classification, IJCAI 2019; "
        "Zhang et al., Adaptive Co-attention Network for Named Entity Recognition in Tweets, AAAI 2018",
        urls={name: f"{TOMBERT}/{name}" for name in ("train.tsv", "dev.tsv", "test.tsv")},
        notes=(
            "A tweet stands there once for each of its targets. Where the text shows the target in its place only, "
            "samples with the same input can have different labels; target='append' names it at the end too.",
        ),
    ),
    "nvgesture": Source(
        title="NVGesture",
        modalities=("rgb", "flow", "depth"),
        classes=25,
        counts={"train": 1050, "test": 482},
        where=(
            "nvGesture_v1.7z.001 and following, from https://research.nvidia.com/publication/"
            "2016-06_online-detection-and-classification-dynamic-hand-gestures-recurrent-3d (about 40 GB); "
            "7z x nvGesture_v1.7z.001 makes Video_data",
        ),
        licence="not known to this project; see NVIDIA's page before you pass anything on",
        layout=(
            "nvgesture_train_correct_cvpr2016_v2.lst and nvgesture_test_correct_cvpr2016_v2.lst, there or in "
            "annotations/",
            "Video_data/class_01/subject3_r0/sk_color.avi and sk_depth.avi",
        ),
        citation="Molchanov et al., Online Detection and Classification of Dynamic Hand Gestures with Recurrent 3D "
        "Convolutional Neural Networks, CVPR 2016",
        urls={},
        notes=("Optical flow is computed from the colour stream.",),
    ),
    "av_mnist": Source(
        title="AV-MNIST from MNIST and FSDD",
        modalities=("audio", "image"),
        classes=10,
        counts={},
        where=("MNIST as idx-ubyte gzip files, and https://github.com/Jakobovski/free-spoken-digit-dataset",),
        licence="FSDD: CC BY-SA 4.0; MNIST: none is stated by its authors",
        layout=("mnist/{images-idx3,labels-idx1}-ubyte.gz", "fsdd/{digit}_{speaker}_{index}.wav"),
        citation="Liang et al., MultiBench: Multiscale Benchmarks for Multimodal Representation Learning, NeurIPS 2021",
        urls={},
        notes=(
            "Pictures and recordings of the same digit are paired; they were never one event. The speakers of the test "
            "split are not heard in training.",
        ),
        hub=("ylecun/mnist",),
    ),
    "mvsa_single": Source(
        title="MVSA-Single",
        modalities=("image", "text"),
        classes=3,
        counts={},
        where=("http://mcrlab.net/research/mvsa-sentiment-analysis-on-multi-view-social-data/",),
        licence="none is stated; tweets remain their authors' (Twitter's terms)",
        layout=("train.csv (columns id and label) and, if there is one, test.csv", "data/{id}.jpg and data/{id}.txt"),
        citation="Niu et al., Sentiment Analysis on Multi-view Social Data, MMM 2016",
        urls={},
    ),
    "demo": Source(
        title="Demo, handwritten digits with synthetic voices",
        modalities=("audio", "image"),
        classes=0,
        counts={},
        where=("Nowhere: it is synthesised.",),
        hub_licence="apache-2.0",
        licence="voices: Apache-2.0, as this project; handwritten digits: UCI's (CC BY 4.0), through scikit-learn",
        layout=("nothing",),
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository",
        urls={},
        notes=("The voices are synthetic, not speech: results say nothing about real recordings.",),
    ),
}


def find_source(name):
    """[`Source`] of a benchmark (`str`); of one that a user registered without an entry here, little more than a name.

    Raises:
        ValueError: an unknown name.
    """
    if name in SOURCES:
        return SOURCES[name]
    cls = find_benchmark(name)
    words = {
        "where": ("not stated",),
        "licence": "not stated",
        "layout": ("its files",),
        "citation": "none",
    }
    return Source(name, tuple(cls.modalities.values()), len(cls.class_names), counts={}, urls={}, **words)


def how(name=None):
    """Where a benchmark is obtained, its licence and its layout, as lines of text (`str`).

    Args:
        name (`str`, *optional*): of a benchmark; all of ours if not given.

    Raises:
        ValueError: an unknown name.
    """
    if name is None:
        return "\n\n".join(how(name) for name in SOURCES)
    source = find_source(name)
    classes = f"; {source.classes} classes" if source.classes else ""
    lines = [f"{name}: {source.title} ({', '.join(source.modalities)}{classes})", "Where from:"]
    lines += [f"  - {step}" for step in source.where]
    lines += [f"  - {file}: {url}" for file, url in source.urls.items()]
    lines += [f"Licence: {source.licence}", "Layout of data_dir:"]
    lines += [f"  - {part}" for part in source.layout]
    if source.counts:
        lines.append("Samples: " + ", ".join(f"{split} {count:,}" for split, count in source.counts.items()))
    lines += [f"Note: {note}" for note in source.notes]
    return "\n".join([*lines, f"Cite: {source.citation}"])

"""Checkpoints: the whole state by parameter name and slice, which any world size, strategy and stage can load.

manifest.py    what a checkpoint is: the manifest, and where its files lie
files.py       files written whole or not at all, and hashed while they are
snapshot.py    a rank's slices, copied at a step boundary, as a safetensors file
save.py        writing beside the training; agreement on whether a checkpoint exists
replicas.py    the same file on other nodes
retention.py   which checkpoints stay
sources.py     what a rank sees of checkpoints
survey.py      which checkpoints there are, for people
choice.py      which checkpoint is taken, from what all ranks see
fit.py         whether it fits this run
load.py        verified, read, given to the strategy
reading.py     slices read from files, or received from who sees them
notes.py, talk.py, agree.py      what ranks tell each other
"""

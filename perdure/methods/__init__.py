"""The table of methods; a method is imported when it is first used."""

METHODS: dict[str, str] = {
    "finetune": "perdure.methods.finetune:Finetune",
    "joint": "perdure.methods.joint:Joint",
    "incremental_joint": "perdure.methods.incremental_joint:IncrementalJoint",
    "independent": "perdure.methods.independent:Independent",
    "scratch": "perdure.methods.scratch:Scratch",
    "er": "perdure.methods.er:ER",
    "der": "perdure.methods.der:DER",
    "agem": "perdure.methods.agem:AGEM",
    "clonex": "perdure.methods.clonex:ClonEx",
    "perfect_memory": "perdure.methods.perfect_memory:PerfectMemory",
    "l2": "perdure.methods.l2:L2",
    "ewc": "perdure.methods.ewc:EWC",
    "si": "perdure.methods.si:SI",
    "mas": "perdure.methods.mas:MAS",
    "rwalk": "perdure.methods.rwalk:RWalk",
    "vcl": "perdure.methods.vcl:VCL",
    "lwf": "perdure.methods.lwf:LwF",
    "packnet": "perdure.methods.packnet:PackNet",
    "lora": "perdure.methods.lora:LoRA",
    "pnn": "perdure.methods.pnn:PNN",
    "tsn": "perdure.methods.tsn:TSN",
    "tsn_replaykl": "perdure.methods.tsn_replaykl:TSNReplayKL",
    "tsn_affinity": "perdure.methods.tsn_affinity:TSNAffinity",
    "frozen_trunk": "perdure.methods.frozen_trunk:FrozenTrunk",
}
"""Name on the command line -> `module:Class`."""

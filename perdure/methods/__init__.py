"""The table of methods; a method is imported when it is first used."""

METHODS: dict[str, str] = {
    "finetune": "perdure.methods.finetune:Finetune",
    "joint": "perdure.methods.joint:Joint",
    "incremental_joint": "perdure.methods.incremental_joint:IncrementalJoint",
    "independent": "perdure.methods.independent:Independent",
    "er": "perdure.methods.er:ER",
    "ewc": "perdure.methods.ewc:EWC",
    "packnet": "perdure.methods.packnet:PackNet",
    "l2": "perdure.methods.l2:L2",
}
"""Name on the command line -> `module:Class`."""

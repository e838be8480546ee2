"""A recipe that trains in seconds: the quickstart's, with a tiny network."""

from simple_diffusion.configs import conditions, quickstart


def get_config(variant=""):
    """Returns the config; with the variant "conditions", one with many of them."""
    config = quickstart.get_config()
    if variant == "conditions":
        add_conditions(config)
    config.data.resolution = 16
    config.model.update(
        channels=(8,),
        blocks=(1,),
        trunk_channels=16,
        trunk_blocks=1,
        trunk_heads=2,
        base_channels=8,
        emb_channels=16,
        scan_unroll=1,
    )
    config.optimizer.warmup_steps = 2
    config.train.update(
        batch_size=8,
        total_steps=40,
        log_every_steps=1,
        checkpoint_every_steps=4,
        sample_every_steps=0,
        keep_checkpoints=3,
        peer_timeout_seconds=30.0,
    )
    config.sample.update(count=12, batch_size=12, steps=2)
    config.evaluate.update(
        count=16,
        batch_size=16,
        count_after_training=16,
        reference_features=16,
        networks=("thumbnail",),
    )
    return config


def add_conditions(config):
    """Lets captions, boxes, a map, a small image and a hole take the class's place."""
    config.data.update(num_classes=0, flip_captions="swap")
    config.conditions.update(
        text=conditions.text(12),
        layout=conditions.layout(18),
        semantic=conditions.semantic(18),
        low_resolution=conditions.low_resolution(2),
        inpainting=conditions.inpainting(),
    )
    config.conditions.text.update(width=8, heads=2, depth=1)
    config.conditions.layout.width = 8
    config.conditions.low_resolution.augmentation = 0.5

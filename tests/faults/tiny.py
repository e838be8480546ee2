"""A recipe that trains in seconds: the quickstart's, with a tiny network."""

from simple_diffusion.configs import quickstart


def get_config():
    """Returns the config."""
    config = quickstart.get_config()
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

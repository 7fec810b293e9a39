"""Made-up users beside the daemon: how they edit, the demo, and the studies of what is learnt from them."""

"""The screen: a process of its own (`edgegen display`), for it needs Pillow and no network; the front is
spared both."""

"""Records, parity ladders and training runs as one self-contained HTML page, with Markdown and CSV beside it."""

"""An algorithm, network, data set, rule and figure: `python -m mine` takes them through everything."""

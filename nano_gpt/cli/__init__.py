"""One module per subcommand: declare options, call one library function, print. Heavy imports wait until it runs."""

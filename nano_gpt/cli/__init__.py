"""One module per subcommand: declare options, call one library function, print. Nothing heavy is imported until it runs."""

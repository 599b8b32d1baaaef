"""The routes of the API, and the handlers behind them."""

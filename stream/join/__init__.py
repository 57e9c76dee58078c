"""The joiner: pairs impressions with actions and emits one example per request."""

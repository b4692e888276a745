"""Language models behind one small interface: `base`, its providers, and `providers`, which finds one by a model's id.

`openai` and `anthropic` are the only modules that import those SDKs, and only once a provider is made: importing this
package costs nothing. They carry bytes; `wire` says what those mean. Servers, profiles and prices are data (`catalogue`).
`offline` is a text processor for work without a key, and no language model.

No provider retries by itself: SDK retries are off, and there is no second layer in their place. A retry belongs to
the `RetryPolicy` of the agent run, where the journal has what succeeded, limits and budgets see each attempt, and the
wait holds no slot.
"""

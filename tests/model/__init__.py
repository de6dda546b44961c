"""The protocol of one lock as a model that Spin looks through, state by state: docs/model.md says what it covers.

python -m tests.model              # every state, of each setting
python -m tests.model --mutants    # faults that are put in on purpose: each is to be refuted
python -m tests.model --traces 100 # what simulated processes did: each trace is to be a behaviour of the model
"""

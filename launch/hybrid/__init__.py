"""``recrl hybrid``: long histories by one vector an entity, stage by stage.

``stages``    base model, store, adaptor
``measuring`` what compressed prompts keep, and what they cost
``report``    the tables of that
"""

"""Long histories in few tokens: one vector an entity, and the adaptor that makes it.

The model stays frozen; the adaptor learns that a prompt of entity slots (:mod:`recrl.rl.policy.slots`) is
answered as the same prompt spelled out (Pan et al. 2025, RecGPT-V2, arXiv 2512.14503).

``settings``    the section ``hybrid`` of a configuration
``questions``   what is asked about one entity
``reading``     a small model that learns to read histories spelled out
``teaching``    answers of the frozen model to full text, kept on disk
``training``    the adaptor
``evaluation``  how well compressed prompts are answered, and what they cost
``costs``       arithmetic with attention counted; seconds
``serving``     prompts as embeddings, for vLLM
"""

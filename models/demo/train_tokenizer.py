"""Trains the demo model's tokenizer: byte-level BPE, 4096 tokens, digits one by one."""

import argparse
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import DOMAINS, END_OF_TEXT, TURN_END, TURN_START, draw, render

SIZE = 4096
# Words with the space before them, single digits, runs of signs, runs of spaces.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
HERE = pathlib.Path(__file__).parent


def texts(seed, per_domain):
    """As many documents of each domain, without the special tokens."""
    r = random.Random(seed)
    for _ in range(per_domain):
        for domain in DOMAINS:
            text = render(draw(r, domain))
            for special in (END_OF_TEXT, TURN_START, TURN_END):
                text = text.replace(special, "\n")
            yield text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--per-domain", type=int, default=12000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(0, options.per_domain), trainer)
    tokenizer.save(str(options.out / "tokenizer.json"))

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": END_OF_TEXT,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": True,
            }
            for token in (END_OF_TEXT, TURN_START, TURN_END)
        },
        "chat_template": (HERE / "chat_template.jinja").read_text(),
    }  # fmt: skip
    path = options.out / "tokenizer_config.json"
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    print(f"{tokenizer.get_vocab_size()} tokens in {options.out}")


if __name__ == "__main__":
    main()

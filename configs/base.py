"""Every key, with its default and what it means; other configs change some of them.

`--config.key=value` on the command line changes one. `config.json` in a workdir holds
the result. This module knows nothing of fmd_jax.
"""

import ml_collections

PRICED = ("questioner", "answerer", "verifier", "evaluator", "annotator", "namer")


def get_config() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.seed = 0  # of everything random
  # Methods to run one after another in one workdir: zero_shot, sft, conme,
  # expert_iteration, grpo (the paper's RL), sft_then_grpo (RL+SFT).
  c.methods = ("zero_shot", "grpo")
  c.steps = 1000  # GRPO's updates; every other method asks as many questions
  c.images_per_step = 16  # B
  c.group_size = 8  # G: responses per image
  c.questions_per_image = 2  # K: questions per response

  c.data = ml_collections.ConfigDict()
  # testbed://?split=train&size=256&seed=0, folder:///path?limit=1000, jsonl:///file,
  # hf:///folder, tfds://coco/2017?split=train&limit=1000&seed=0: see data/sources.py
  c.data.train = "testbed://?split=train&size=256"
  # Images that training never sees, for the final policy.
  c.data.heldout = "testbed://?split=heldout&size=64"
  # Threads that read and resize the images of the next step; 0: none, each step waits.
  c.data.workers = 4
  c.data.cache_mb = 256  # of images read and resized, kept for the next time

  # Models, each named by one string: hf:///folder, grpc://host:port/role, oracle://,
  # scripted:///file.py:function; hf://testbed/… is a checkpoint of this package.
  c.roles = ml_collections.ConfigDict()
  # A folder where it is trained; zero_shot and conme take any model.
  c.roles.questioner = "hf://testbed/questioner"
  c.roles.answerer = "hf://testbed/answerer"  # the model whose failures are sought
  c.roles.verifier = "oracle://"  # judges while training: makes the reward
  c.roles.evaluator = "oracle://"  # judges afterwards: makes the numbers
  c.roles.embedder = "minilm://"  # sentence embeddings
  c.roles.annotator = "oracle://"  # names the primitive skills a question takes
  c.roles.namer = "oracle://"  # names topics, sorts skills into meta-skills

  c.answerer = ml_collections.ConfigDict()
  c.answerer.max_tokens = 32  # longest answer
  c.judge = ml_collections.ConfigDict()
  c.judge.max_tokens = 2048  # longest verdict, reasoning included
  c.judge.retries = 1  # of a verdict that does not parse; then the row is unscored
  # Of the verifier while training: verdicts to ask for, the most frequent one counts,
  # and the least share of them that must agree, else the row is unscored.
  c.judge.votes = 1
  c.judge.agreement = 0.0
  # Answers to guess without the image; a question whose guesses are all right is not
  # grounded. Yes or no is right half of the time: 0 to not ask, else 3 or more.
  c.judge.guesses = 0

  # What a run may spend on other models, those that start it again included; 0: no
  # limit. spending.json in the workdir has the counts.
  c.budget = ml_collections.ConfigDict()
  c.budget.calls = 0  # of all roles together; replies from the cache are none
  c.budget.usd = 0.0
  # US dollars for a million tokens read, and for a million written, by role.
  c.budget.prices = ml_collections.ConfigDict()
  for role in PRICED:
    c.budget.prices[role] = (0.0, 0.0)

  # How launch.taxonomy makes skills of valid questions.
  c.taxonomy = ml_collections.ConfigDict()
  # Most distinct (image, question) annotated per method and split, evenly spread over
  # the run; 0: all. Rows with the same image and question share an annotation.
  c.taxonomy.questions = 0
  c.taxonomy.max_tokens = 2048  # longest reply, reasoning included
  c.taxonomy.near_duplicate = 0.9  # phrases with this cosine are one primitive
  # Fewest primitives of a topic; 0: by their number, 3 to 15.
  c.taxonomy.min_topic_size = 0
  c.taxonomy.stability_seeds = 3  # clusterings compared; 1: none
  c.taxonomy.label_duplicate = 0.9  # topics whose labels have this cosine are one skill

  c.rollout = ml_collections.ConfigDict()
  # Steps that GRPO samples ahead. 0: each batch by the policy that it trains. 1: while
  # verdicts come in, the next batch is sampled, by a policy one update older; log-probs
  # are then computed anew and tokens weighed by min(exp(new - sampled), 2).
  c.rollout.staleness = 0
  # Seconds after which a GRPO step goes on without the verdicts that are not in. Those
  # groups (an image with all its responses) are scored and trained on in the next step,
  # beside its own, as stale ones, in a batch of up to twice the images; then, and at
  # the last step, they are waited for. Half of a step's groups always are. 0: every
  # step waits for every verdict; only then does a run not depend on time.
  c.rollout.late = 0.0

  # Of the independent evaluation: how many questions it judges, drawn at random, as
  # many of each method and split; 0: every one.
  c.evaluation = ml_collections.ConfigDict()
  c.evaluation.sample = 0

  # Whether RL learns to please its verifier: the evaluator looks at a few rows while it
  # trains, where the two are different models, and its verdicts are kept for the
  # evaluation afterwards. Alarms are in the log, in measurements.jsonl (monitor/...)
  # and in the report. Every key may change when a run goes on.
  c.monitor = ml_collections.ConfigDict()
  c.monitor.every = 5  # steps between two looks; 0: none
  c.monitor.rows = 80  # of the step, drawn at random: that many calls at most
  c.monitor.window = 20  # steps whose looks are taken together
  # Alarms. How much more the verifier may call valid than the evaluator does, and wrong
  # of what both call valid: an alarm when the interval of the window's gap, which holds
  # at all looks of the run together (95 %), lies above it. A verifier that errs a lot
  # has a gap from the start: set this above it.
  c.monitor.gap = 0.05
  c.monitor.prefix = 0.6  # most of a step's questions may begin alike, this share
  c.monitor.zero_variance = 0.9  # of groups whose responses have the same reward
  c.monitor.stop = False  # at an alarm: keep a checkpoint and end

  c.sampling = ml_collections.ConfigDict()
  c.sampling.max_new_tokens = 256  # longest response
  c.sampling.temperature = 1.0  # GRPO needs 1: it trains what it samples
  # Parameters are gathered over sharding.fsdp once before sampling: a copy in
  # precision.compute on every device, if there is room (launch.tpu_fit tells). Without,
  # each token gathers every layer again.
  c.sampling.gather = False

  c.model = ml_collections.ConfigDict()
  # What a layer keeps for the backward pass: "full" recomputes all but its input,
  # "dots" all but its projections, "none" nothing.
  c.model.remat = "full"

  # The devices as a mesh, see fmd_jax/sharding.py; the product is their number, and -1
  # takes those that are left: all of them, one on a laptop.
  c.sharding = ml_collections.ConfigDict()
  c.sharding.data = 1  # copies of the model
  c.sharding.fsdp = -1  # parts of parameters and optimiser state
  c.sharding.tensor = 1  # parts of each layer's computation

  c.reward = ml_collections.ConfigDict()
  c.reward.terms = ("semantic", "lexical", "penalty")  # of eq. 5
  c.reward.lambda_scale = 0.5  # keeps Delta within [0, 1]
  c.reward.lambda_penalty = 1.0
  c.reward.prefix_length = 2  # L: words of a question's prefix
  c.reward.lexical = "paper"  # 1 / (1 + count); "relative": by share
  c.reward.aggregate = "mean"  # of the slots of a response

  c.advantage = ml_collections.ConfigDict()
  # What centred rewards are divided by: "std", or "none" (Dr. GRPO).
  c.advantage.scale = "std"
  c.advantage.std_floor = 0.0  # least std to divide by; 0 is the paper
  # "response": all tokens of a response share its advantage, the paper; "question":
  # each has that of the question it spells.
  c.advantage.credit = "response"

  c.grpo = ml_collections.ConfigDict()
  # "grpo": eq. 1; "dr_grpo" divides by the longest response allowed instead of each
  # one's length; "dapo": all tokens weigh the same, groups of equal rewards are left
  # out; "gspo": one ratio a response; "cispo": the ratio is a weight only.
  c.grpo.loss = "grpo"
  c.grpo.clip = 0.2  # epsilon of eq. 1 (of "gspo", whose ratio is a mean: 3e-4)
  # Epsilon above 1 where it differs (DAPO: 0.28); 0: the same. Of "cispo" it bounds the
  # ratio itself (5.0).
  c.grpo.clip_high = 0.0
  c.grpo.beta = 0.01  # weight of the KL to the frozen reference
  c.grpo.kl = "k3"  # its estimate; "k1", "k2"
  # Most tokens computed at once, padding included: the step is cut into as few parts
  # as that allows, and gradients are summed. 0: the step is one.
  c.grpo.microbatch_tokens = 0

  c.sft = ml_collections.ConfigDict()
  # What other people found: specs of `data.open_corpus`, joined. On the testbed the
  # failures of another answerer; failures:///workdir are those of a run.
  c.sft.corpus = ("failures://testbed/answerer_other",)
  # Whether sets may be used whose licence forbids commercial use, or is not stated.
  c.sft.allow_noncommercial = False
  # Each image this often, with as many questions as group_size responses hold.
  c.sft.epochs = 2.0
  c.sft.learning_rate = 1e-5  # the peak; it falls as optimizer.end_scale says

  c.expert_iteration = ml_collections.ConfigDict()
  c.expert_iteration.rounds = 5  # of asking and learning; they share `steps`
  c.expert_iteration.epochs = 3.0  # over a round's failures, as sft.epochs
  c.expert_iteration.learning_rate = 1e-5  # constant after the warm-up

  c.conme = ml_collections.ConfigDict()
  # Questioner and answerer describe each image first, and questions are about what
  # the answerer left out. Off: the first turn is asked as Zero Shot asks.
  c.conme.describe = True
  # Who asks the second turn: hf:///folder of the questioner's shape, fine-tuned for it.
  # "": the questioner itself, which a large one can.
  c.conme.questioner = ""

  # Norms, rotations, softmax, log-probs, gradients and optimiser are always in fp32.
  c.precision = ml_collections.ConfigDict()
  c.precision.compute = "float32"  # or "bfloat16": activations, products, sampling
  c.precision.frozen = "float32"  # how frozen and reference parameters are kept

  c.lora = ml_collections.ConfigDict()
  c.lora.rank = 0  # 0: no adapters, all but optimizer.frozen is trained
  c.lora.alpha = 32.0  # over the rank, the adapters' scale
  # Shell patterns of the projections that get them, "*.q_proj" or "visual.merger.*".
  c.lora.targets = ("language_model.layers.*",)
  c.lora.beside = ()  # name prefixes of parameters trained in full beside them

  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.learning_rate = 1e-6
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.95
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.0
  c.optimizer.warmup_steps = 10
  # The rate falls along a cosine to this share of it at the last step; 1: constant.
  c.optimizer.end_scale = 1.0
  c.optimizer.max_grad_norm = 1.0
  # Name prefixes of parameters left alone; with adapters all others are.
  c.optimizer.frozen = ("visual",)

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 50  # steps
  c.checkpoint.keep = 2

  # Replies of other models on disk, so that none is paid for twice (not of oracle://
  # and the like, which cost nothing). A sidecar that runs already has its own.
  c.cache = ml_collections.ConfigDict()
  c.cache.folder = "replies"  # in the workdir, or a path; "": none
  c.cache.gb = 4.0  # the oldest replies leave

  c.sidecar = ml_collections.ConfigDict()
  # host:port of a running one, or of several (a:1,b:1) that serve the same models;
  # ?ca=file.pem for TLS. "" starts one on this machine for the run.
  c.sidecar.address = ""
  c.sidecar.threads = 0  # of torch; 0 = all cores
  c.sidecar.deadline = 600.0  # seconds to wait for one that does not answer

  c.watch = ml_collections.ConfigDict()
  # Project at Weights & Biases that shows the measurements too; "": none. TensorBoard's
  # files are always written.
  c.watch.wandb = ""
  return c

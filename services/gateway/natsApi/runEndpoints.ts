/** What can be asked about runs over NATS. The place in the subject, which may be all (`=all`), bounds what a run covers and what is seen of it. */
import { LxstowError } from '../../contract/errors.ts';
import type {
  CreateRunBody,
  Run,
  RunChildrenRequest,
  RunRequest,
  RunRetryRequest,
  RunsRequest,
  ShownRun,
} from '../../contract/schemas.ts';
import { all } from '../../nats/topology.ts';
import { refusalOf } from '../../notices/allowedEndpoints.ts';
import { createRun, retryRun } from '../../runs/createRun.ts';
import { type MaySee, shownRun } from '../../runs/fold.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { assertAllOfIt, cancelRun, childPage, missingRun, runPage, visibleRun } from '../views/runView.ts';
import type { Endpoint, Question } from './endpoint.ts';

const usual = { atOnce: 32, timeoutMs: 20_000, allowsAll: true };
const usualLimit = 100;

export const runEndpoints: Endpoint[] = [
  {
    ...usual,
    name: 'runs-create',
    subject: 'runs.create.{remote}.{project}',
    description:
      'Makes a run of what the selector means in this place. The same request with the same id again is the same run.',
    request: 'http-create-run.json',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const request = requestIn(parts, question);
      const remotes = question.address.remote === all ? Object.keys(parts.config.remotes) : [question.address.remote];
      return shown(await createRun(toolsOf(parts), request, remotes, { trace: question.trace }), question);
    },
  },
  {
    ...usual,
    name: 'runs-list',
    subject: 'runs.list.{remote}.{project}',
    description: 'Runs with children in this place, the newest first, a page of them.',
    request: 'run-answers.json#/$defs/runsRequest',
    answer: 'run-answers.json#/$defs/runPage',
    run: ({ runs }, question) => {
      const { limit = usualLimit, after } = question.body as RunsRequest;
      return runPage(runs, { limit: Math.min(limit, usualLimit), after }, seenFrom(question));
    },
  },
  {
    ...usual,
    name: 'runs-show',
    subject: 'runs.show.{remote}.{project}',
    description: 'A run, as far as it is of this place.',
    request: 'run-answers.json#/$defs/runRequest',
    answer: 'run-answers.json#/$defs/run',
    run: async (parts, question) => shown(await runOf(parts, question), question),
  },
  {
    ...usual,
    name: 'runs-children',
    subject: 'runs.children.{remote}.{project}',
    description: "A run's children in this place, a page of them.",
    request: 'run-answers.json#/$defs/childrenRequest',
    answer: 'run-answers.json#/$defs/childPage',
    async run(parts, question) {
      const { state, limit = usualLimit, after } = question.body as RunChildrenRequest;
      return childPage(parts.runs, await runOf(parts, question), { state, limit, after }, seenFrom(question));
    },
  },
  {
    ...usual,
    name: 'runs-cancel',
    subject: 'runs.cancel.{remote}.{project}',
    description: 'Asks a run to end, with all its children; the run as it is then. All of it must be of this place.',
    request: 'run-answers.json#/$defs/runRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { id } = await wholeRun(parts, question);
      return shown(await cancelRun(parts.runs, id), question);
    },
  },
  {
    ...usual,
    name: 'runs-retry',
    subject: 'runs.retry.{remote}.{project}',
    description: 'Makes a new run of what failed in one that has ended. All of it must be of this place.',
    request: 'run-answers.json#/$defs/retryRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { new_id } = question.body as RunRetryRequest;
      const made = await retryRun(toolsOf(parts), await wholeRun(parts, question), new_id, { trace: question.trace });
      return shown(made, question);
    },
  },
];

function seenFrom({ address }: Question): MaySee {
  return (remote, project) =>
    (address.remote === all || address.remote === remote) && (address.project === all || address.project === project);
}

/** The request, kept to the place of its subject. */
function requestIn({ config }: GatewayParts, { address, body }: Question): CreateRunBody {
  const { selector, notifyEndpoint, ...options } = body as CreateRunBody;
  // Who may publish runs may have backups made, not deleted.
  if (options.keep) throw new LxstowError('forbidden', 'keep: a run over NATS deletes nothing');
  for (const [field, place] of [
    ['remotes', address.remote],
    ['projects', address.project],
  ] as const)
    if (selector[field]?.some((each) => place !== all && each !== place))
      throw new LxstowError('forbidden', `selector: ${field} goes beyond what the subject names`);
  const refusal = notifyEndpoint === undefined ? undefined : refusalOf(notifyEndpoint, config.notify);
  if (refusal !== undefined) throw new LxstowError('forbidden', `notifyEndpoint: ${refusal}`);
  return {
    ...options,
    selector: {
      ...selector,
      ...(address.remote !== all && { remotes: [address.remote] }),
      ...(address.project !== all && { projects: [address.project] }),
    },
    ...(notifyEndpoint !== undefined && { notifyEndpoint }),
  };
}

function toolsOf({ nats, runs, config }: GatewayParts) {
  return { nats, runs, inventoryTimeoutMs: config.gateway.inventoryTimeoutMs };
}

function runOf({ runs }: GatewayParts, question: Question): Promise<Run> {
  return visibleRun(runs, (question.body as RunRequest).id, seenFrom(question));
}

async function wholeRun(parts: GatewayParts, question: Question): Promise<Run> {
  const run = await runOf(parts, question);
  assertAllOfIt(run, seenFrom(question));
  return run;
}

function shown(run: Run, question: Question): ShownRun {
  const seen = shownRun(run, seenFrom(question), new Date());
  if (!seen) throw missingRun(run.id);
  return seen;
}

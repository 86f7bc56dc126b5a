/** The endpoints for runs over NATS. The place in the subject, which may be `=all`, limits what a run covers and what the answer shows. */
import { LxstowError } from '../../contract/errors.ts';
import type {
  CreateRunBody,
  Run,
  RunChildrenRequest,
  RunRequest,
  RunRetryRequest,
  RunsRequest,
  ShownRun,
  WaitRequest,
} from '../../contract/schemas.ts';
import { all } from '../../nats/subjects.ts';
import { checkEndpoints } from '../../notices/allowedEndpoints.ts';
import { createRun, retryRun } from '../../runs/createRun.ts';
import { type MaySee, shownRun } from '../../runs/fold.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { assertAllOfIt, cancelRun, childPage, missingRun, runPage, runTools, visibleRun } from '../views/runView.ts';
import { type Endpoint, isIn, longWait, placeIn, type Question, usualWaitSeconds } from './endpoint.ts';

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
      return shown(await createRun(runTools(parts), request, remotes, { trace: question.trace }), question);
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
    name: 'runs-wait',
    subject: 'runs.wait.{remote}.{project}',
    description: 'A run when it has ended, or as it is when the time is over, as far as it is of this place.',
    request: 'nats-api.json#/$defs/waitRequest',
    answer: 'run-answers.json#/$defs/run',
    ...longWait,
    async run(parts, question) {
      const { id, timeout = usualWaitSeconds } = question.body as WaitRequest;
      const before = await runOf(parts, question);
      const over = AbortSignal.any([AbortSignal.timeout(timeout * 1000), parts.stop]);
      return shown((await parts.runFeed.untilEnded(id, over))?.run ?? before, question);
    },
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
      const { request, ...run } = await wholeRun(parts, question);
      const { keep: _, ...backups } = request;
      const deletesNothing = { ...run, request: backups };
      return shown(await retryRun(runTools(parts), deletesNothing, new_id, { trace: question.trace }), question);
    },
  },
];

function seenFrom(question: Question): MaySee {
  const place = isIn(question);
  return (remote, project) => place.remote(remote) && place.project(project);
}

/** The request, limited to the place in its subject. Throws forbidden when it names others. */
function requestIn({ config }: GatewayParts, question: Question): CreateRunBody {
  const { selector, ...options } = question.body as CreateRunBody;
  // Who may publish runs may have backups made, not deleted.
  if (options.keep) throw new LxstowError('forbidden', 'keep: a run over NATS deletes nothing');
  const place = placeIn(question, selector);
  checkEndpoints(question.body as CreateRunBody, config.notify);
  return {
    ...options,
    selector: { ...selector, ...place },
  };
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

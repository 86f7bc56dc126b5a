/** Operations: listed, shown, waited for. */
import { type Request, type Response, Router } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { Run } from '../../contract/schemas.ts';
import { countDeadLetters, wordsFor } from '../../jobs/queueDepth.ts';
import { runOperation, shownRun } from '../../runs/fold.ts';
import { clientOf, isAdmin, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { listedProject, parameter, query } from '../http/requests.ts';
import { operationPath, sync, toLxd } from '../http/respond.ts';
import { cancelOperation, missingOperation } from '../views/operationView.ts';
import { assertAllOfIt, cancelRun } from '../views/runView.ts';
import { tokenOperation } from '../views/tokenOperation.ts';
import { seenBy } from './runs.ts';

const longestWaitMs = 2 ** 31 - 1;

export function operationRoutes(parts: GatewayParts): Router {
  const { nats, operations, awayWorkers, feed, runs, runFeed, trustStore, stop, log } = parts;
  const router = Router();
  const idOf = (request: Request) => parameter(request, 'id', 'names.json#/$defs/uuid');

  /** In a header: LXD's clients know what is in the body. */
  const tellDeadLetters = async (response: Response) => {
    try {
      const count = await countDeadLetters(nats);
      if (count > 0) response.append('warning', `199 lxstow "${wordsFor(count)}"`);
    } catch (error) {
      log.debug('dead letters were not counted', { error });
    }
  };

  /** A run as an operation, as far as the client may see it. */
  const shownToClient = (request: Request, run: Run | undefined) => {
    const shown = run && shownRun(run, seenBy(clientOf(request)), new Date());
    return shown && runOperation(shown);
  };

  router.get('/', async (request, response) => {
    const project = listedProject(request);
    const filter = query(request, 'filter');
    const full = (query(request, 'recursion') ?? '0') !== '0';
    const client = clientOf(request);
    const theirs = (await operations.list()).filter(
      (each) => (project === undefined || each.project === project) && mayTouch(client, each.project),
    );
    const found = (await awayWorkers.explain(theirs)).map(toLxd);
    if (isAdmin(client)) await tellDeadLetters(response);
    const tokens = isAdmin(client) && (project === undefined || project === 'default') ? await trustStore.tokens() : [];
    // In LXD too, a token runs in the default project.
    const ofProject = (_: string, each: string) =>
      (project === undefined || each === '' || each === project) && mayTouch(client, each);
    const batches = (await runs.list()).flatMap(({ run }) => {
      const shown = shownRun(run, ofProject, new Date());
      return shown ? [runOperation(shown)] : [];
    });
    const all = await filtered([...found, ...batches, ...tokens.map((token) => tokenOperation(token))], filter);
    const shown = Object.entries(Object.groupBy(all, ({ status }) => status.toLowerCase())).map(
      ([status, each = []]) => [status, full ? each : each.map(({ id }) => operationPath(id))],
    );
    sync(response, Object.fromEntries(shown));
  });

  router.get('/:id', async (request, response) => {
    const id = idOf(request);
    const found = await operations.find(id);
    const [operation] = await awayWorkers.explain(found ? [found.operation] : []);
    if (operation) return sync(response, toLxd(operation));
    const run = shownToClient(request, (await runs.find(id))?.run);
    if (run) return sync(response, run);
    const token = isAdmin(clientOf(request)) ? await trustStore.token(id) : undefined;
    if (!token) throw missingOperation(id);
    sync(response, tokenOperation(token));
  });

  router.delete('/:id', async (request, response) => {
    const id = idOf(request);
    const run = (await runs.find(id))?.run;
    if (run && shownToClient(request, run)) {
      assertAllOfIt(run, seenBy(clientOf(request)));
      await cancelRun(runs, id);
      return sync(response);
    }
    const isToken = isAdmin(clientOf(request)) && (await trustStore.removeToken(id));
    if (!isToken) await cancelOperation(parts, id);
    sync(response);
  });

  router.get('/:id/wait', async (request, response) => {
    const id = idOf(request);
    const seconds = Number(query(request, 'timeout') ?? -1);
    if (!Number.isFinite(seconds)) throw new LxstowError('bad-request', '?timeout= is not a number of seconds');
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const over = AbortSignal.timeout(seconds < 0 ? longestWaitMs : Math.min(Math.ceil(seconds * 1000), longestWaitMs));
    const until = AbortSignal.any([over, gone.signal, stop]);
    if (shownToClient(request, (await runs.find(id))?.run))
      return sync(response, shownToClient(request, await runFeed.untilEnded(id, until)));
    const found = await feed.untilFinal(id, until);
    if (!found) throw missingOperation(id);
    sync(response, toLxd(found));
  });

  return router;
}

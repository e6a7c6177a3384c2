"""Cutting where a band is a run of blocks in raster order, not a rectangle."""
from __future__ import annotations
from dataclasses import dataclass
from itertools import accumulate
from bisect import bisect_left
import heapq
from simulator import *

@dataclass
class R:
    gain: float = 0.3        # least seconds by which a steal must hasten the later end
    prior: float = 0.1
    early: bool = False      # ask before the band ends
    early_extra: float = 0.0
    aware: bool = True       # look at single blocks
    order: str = 'down'      # order of machines in the first partition
    share: float = 1.0
    relgain: float = 0.0     # least gain as part of what the steal costs

class P:
    def __init__(self, machine, a, b, at, early_from=None):
        self.machine, self.a, self.b, self.at = machine, a, b, at
        self.done, self.seen_at = 0, None
        self.cut=self.cutting=self.stuck=self.over=False
        self.free_at=at      # when its cores are free for it
        self.asked=False

class Runs:
    def __init__(self, sim, belief, rules=R(), unit=None):
        self.sim, self.rules = sim, rules
        total = sim.blocks.total if unit is None else unit
        self.belief = belief.at(sim.blocks.columns, sim.blocks.rows).scaled(total)
        self.costs = self.belief.costs
        self.acc = [0.0, *accumulate(self.costs)]
        self.n = len(self.costs)
        self.pieces = {}; self.dry=[]; self.reserve=[]; self.pending={}
        self.again_at=self.scale_at=0.0; self.scale=1.0; self.log=[]; self.failed=0
    # ---- estimates
    def start_s(self,m): return self.sim.costs.start_s+self.sim.costs.parse_s/m.speed
    def tile_s(self,m): return self.sim.costs.tile_s+self.sim.costs.parse_s/m.speed
    def prefix(self,p,n): return self.acc[p.a+n]-self.acc[p.a]
    def span(self,a,b,m,factor):
        """Seconds in which the machine renders blocks a..b."""
        c=m.cores
        if b<=a: return 0.0
        if not self.rules.aware: return (self.acc[b]-self.acc[a])*factor/m.power
        mid=b-6*c
        if mid>a:
            h=[(self.acc[mid]-self.acc[a])/c]*c
        else:
            mid=a; h=[0.0]*c
        for i in range(mid,b): heapq.heapreplace(h,h[0]+self.costs[i])
        return max(h)*factor/m.speed
    def factor(self,p):
        if p.seen_at is None or p.done==0: return self.scale
        spent=max(0.0,p.seen_at-p.free_at-self.start_s(p.machine))*p.machine.power
        k=self.rules.prior*(self.acc[p.b]-self.acc[p.a])
        return (spent+k*self.scale)/(self.prefix(p,p.done)+k)
    def rescale(self):
        if self.sim.now<self.scale_at: return
        self.scale_at=self.sim.now+0.5
        spent=bel=0.0
        for p in self.pieces.values():
            if p.seen_at is not None and p.done:
                spent+=max(0.0,p.seen_at-p.free_at-self.start_s(p.machine))*p.machine.power
                bel+=self.prefix(p,p.done)
        if bel>0.005*self.acc[-1]: self.scale=spent/bel
    def begun(self,p,factor):
        """Block that it is probably at now."""
        m=p.machine
        t0=p.seen_at if p.seen_at is not None else p.free_at+self.start_s(m)
        bel=self.prefix(p,p.done)+max(0.0,self.sim.now-t0)*m.power/max(factor,1e-9)
        i=bisect_left(self.acc,self.acc[p.a]+bel)
        return min(max(i,p.a+p.done),p.b)
    def left_s(self,p,to=None):
        """Seconds from now until its blocks are done."""
        factor=self.factor(p); to=p.b if to is None else to
        m=p.machine; ready=p.free_at+self.start_s(m)
        if p.seen_at is None and self.sim.now<ready: return ready-self.sim.now+self.span(p.a,to,m,factor)
        t0=p.seen_at if p.seen_at is not None else ready
        return max(0.0,self.span(p.a+p.done,to,m,factor)-(self.sim.now-t0))
    def end_at(self,p):
        return self.sim.now+self.left_s(p)+(self.tile_s(p.machine) if p.cut else self.sim.costs.exit_s)
    # ---- first partition
    def begin(self):
        ms=sorted(self.sim.machines,key=lambda m:-m.power if self.rules.order=='down' else m.power)
        if self.rules.order=='mixed':
            ms=sorted(self.sim.machines,key=lambda m:(m.number*7919)%len(self.sim.machines))
        power=sum(m.power for m in ms)
        lo=self.sim.blocks.total/power; hi=lo*3+max(self.costs)
        N=int(self.n)
        end=N
        def fit(T):
            a=0; out=[]
            for m in ms:
                out.append((m,a,b:=self.longest(a,m,T))); a=b
            return a,out
        for _ in range(18):
            T=(lo+hi)/2
            a,_o=fit(T)
            if a>=end: hi=T
            else: lo=T
        a,out=fit(hi)
        if self.rules.share<1:
            out=[(m,a,a+max(1,round((b-a)*self.rules.share))) if b>a else (m,a,b) for m,a,b in out]
        for m,a,b in out:
            if b>a: self.go(m,a,b)
            else: self.dry.append(m)
    def longest(self,a,m,T):
        if a>=self.n: return a
        b=bisect_left(self.acc,self.acc[a]+T*m.power)
        b=min(max(b,a+1),self.n)
        while b>a+1 and self.span(a,b,m,1.0)>T: b-=1
        return b
    def go(self,m,a,b,free_at=None):
        att=self.sim.lease(m,self.sim.area,a,b)
        p=P(m,a,b,self.sim.now)
        if free_at is not None: p.free_at=max(self.sim.now,free_at-self.start_s(m))
        self.pieces[att]=p
    # ---- events
    def progress(self,attempt,done):
        p=self.pieces.get(attempt)
        if p is None: return
        if p.seen_at is None and p.at<p.free_at: # began early: when did it really begin?
            p.free_at=min(p.free_at,self.sim.now-self.start_s(p.machine))
        p.done,p.seen_at=done,self.sim.now
        p.stuck=False
        self.rescale()
        if self.rules.early: self.look(p,attempt)
        if self.dry and self.sim.now>=self.again_at:
            self.again_at=self.sim.now+0.5
            for m in sorted(self.dry,key=lambda m:-m.power):
                self.dry.remove(m)
                if not self.feed(m): break
    def look(self,p,attempt):
        if p.asked or p.over: return
        lead=self.start_s(p.machine)+self.rules.early_extra
        left=self.left_s(p)
        if left<=lead:
            p.asked=True
            self.feed(p.machine,self.sim.now+left)
        elif left<=lead+self.sim.costs.progress_s:
            self.sim.after(left-lead,lambda: attempt in self.pieces and self.look(p,attempt))
    def rendered(self,attempt):
        p=self.pieces[attempt]; p.over=True
        self.log.append((self.sim.now,p.machine.number,'dry',p.a,p.b))
        if not p.asked: self.feed(p.machine)
    def accepted(self,attempt): self.pieces.pop(attempt)
    def lost(self,machine):
        for a,p in list(self.pieces.items()):
            if p.machine is machine and not p.over:
                del self.pieces[a]; self.reserve.append((p.a,p.b))
        if machine in self.dry: self.dry.remove(machine)
        for m in list(self.dry):
            self.dry.remove(m); self.feed(m)
    # ---- stealing
    def feed(self,machine,free_at=None):
        if not machine.alive: return
        if self.reserve:
            a,b=self.reserve.pop(); self.go(machine,a,b,free_at); return True
        victims=[(self.end_at(p),a,p) for a,p in self.pieces.items() if not p.over and not p.cutting and not p.stuck and p.machine is not machine and p.machine.alive]
        victims.sort(key=lambda v:-v[0])
        for end,a,p in victims[:8]:
            k=self.best_at(machine,p,end,free_at)
            if k is not None:
                p.cutting=True; self.pending[a]=(machine,free_at)
                self.sim.cut_run(a,k-p.a)
                return True
        if free_at is None: self.dry.append(machine)
        else:
            for q in self.pieces.values():
                if q.machine is machine: q.asked=False
    def best_at(self,m,p,end,free_at):
        now=self.sim.now; factor=self.factor(p)
        i=self.begun(p,factor)
        lo,hi=max(i+1,p.a+1),p.b
        if lo>=hi: return None
        exit_s=self.sim.costs.exit_s
        begin=now+self.start_s(m) if free_at is None else max(now+self.start_s(m),free_at)
        def owner(k): return now+self.left_s(p,k)+self.tile_s(p.machine)
        def thief(k): return begin+self.span(k,p.b,m,factor)+exit_s
        a,b=lo,hi-1
        while a<b:
            mid=(a+b)//2
            if owner(mid)>=thief(mid): b=mid
            else: a=mid+1
        best=min((max(owner(k),thief(k)),k) for k in range(max(lo,a-3),min(hi,a+4)))
        cost=self.start_s(m)+exit_s+ (0 if p.cut else self.tile_s(p.machine)-exit_s)
        if end-best[0]<self.rules.gain+self.rules.relgain*cost: return None
        return best[1]
    def was_cut(self,attempt,limit):
        m,free_at=self.pending.pop(attempt); p=self.pieces.get(attempt)
        if p is None: self.feed(m,free_at); return
        p.cutting=False
        if p.a+limit>=p.b:
            p.stuck=True; self.failed+=1; self.feed(m,free_at); return
        old=p.b; p.b=p.a+limit; p.cut=True
        p.done=min(p.done,limit)
        self.log.append((self.sim.now,m.number,'takes',(p.b,old),p.machine.number))
        if m.alive: self.go(m,p.b,old,free_at)
        else: self.reserve.append((p.b,old))

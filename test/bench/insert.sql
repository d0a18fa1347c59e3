INSERT INTO public.bench_insert VALUES (1, 'a row');
